import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from training.run_folder import Run
from training.side_by_side import contrast, differences, held_out, page

CPU = torch.device("cpu")


def written(path: Path, *runs: Run) -> str:
    shared = held_out.find(runs)
    evaluations = contrast.judge(runs, shared, None, CPU)
    found = contrast.contrasts(runs, evaluations)
    page.write(path / "page.html", runs, shared, evaluations, found, CPU)
    return (path / "page.html").read_text(encoding="utf-8")


def with_recipe(run: Run, **changes: Any) -> Run:
    origin = run.outcome.provenance
    changed = origin.model_copy(update={"recipe": {**origin.recipe, **changes}})
    return replace(run, outcome=run.outcome.model_copy(update={"provenance": changed}))


def test_the_page_is_one_file_that_starts_with_the_verdict(
    run: Run, spoilt: Run, tmp_path: Path
) -> None:
    text = written(tmp_path, run, spoilt)
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert "<script" not in text and "@import" not in text and not re.search(r"url\((?!#)", text)
    headline = re.search(r"<h1>(.*)</h1>", text)
    assert headline and headline[1].startswith(f"{spoilt.path} is worse than {run.path}: ")
    words = {"single": "right, {} wrong", "multi": "has more labels right than {}"}
    assert words[run.outcome.task].format(spoilt.path) in text


def test_it_shows_the_images_that_each_run_gets_wrong_where_it_looked_and_the_scores(
    single_run: Run, spoilt_single: Run, tmp_path: Path
) -> None:
    runs = (single_run, spoilt_single)
    evaluations = contrast.judge(runs, held_out.find(runs), None, CPU)
    (found,) = contrast.contrasts(runs, evaluations)
    text = written(tmp_path, *runs)
    section = text.partition('id="images"')[2]
    won, lost = section.partition(f"{single_run.path} is right, {spoilt_single.path} wrong")[::2]
    for rows, part in ((found.won, won), (found.lost[:12], lost)):
        assert part.count("<figcaption>") == min(len(rows), 12)
        assert part.count("data:image/jpeg;base64,") == 2 * min(len(rows), 12)
    files = {evaluations[0].records[row].file for row in found.lost}
    assert {name for name in re.findall(r"([\w/]+\.jpg)</figcaption>", lost)} <= files
    row = next(row for row in found.lost if evaluations[0].records[row].file in lost)
    for evaluation, run in zip(evaluations, runs, strict=True):
        best = int(evaluation.scores[row].argmax())
        score = evaluation.scores[row, best]
        assert f"{run.path}: <b>{evaluation.labels[best]}</b> {score:.3f}" in lost


def test_the_curves_of_all_runs_are_in_one_plot(
    single_run: Run, spoilt_single: Run, tmp_path: Path
) -> None:
    text = written(tmp_path, single_run, spoilt_single)
    figure = text.partition('id="curves"')[2].partition("</svg>")[0]
    for run in (single_run, spoilt_single):
        assert str(run.path) in figure
    assert "validation loss" not in figure and "error" in figure
    assert "which are not the same" not in text


def test_only_what_differs_between_the_runs_is_listed(single_run: Run, tmp_path: Path) -> None:
    same = differences.of([single_run, single_run])
    assert same == []
    other = with_recipe(single_run, seed=7, checkpoint_s=1.5)
    assert differences.of([single_run, other]) == [
        ("--seed", ["42", "7"]),
        ("--checkpoint-s", ["600.0", "1.5"]),
    ]
    libraries = {**single_run.outcome.provenance.libraries, "torch": "1.0"}
    older = single_run.outcome.provenance.model_copy(
        update={"libraries": libraries, "processor": "abacus"}
    )
    moved = replace(single_run, outcome=single_run.outcome.model_copy(update={"provenance": older}))
    assert dict(differences.of([moved, single_run])).keys() == {"processor", "torch"}
    text = written(tmp_path, single_run, other)
    assert "<th>--seed</th>" in text and "<th>--lr</th>" not in text


def test_what_was_left_out_is_counted_and_named(single_run: Run, tmp_path: Path) -> None:
    first, second, *rest = single_run.split.valid
    renamed = replace(second, labels=("red" if second.labels != ("red",) else "blue",))
    sides = replace(single_run.split, valid=(renamed, *rest))
    other = replace(single_run, split=sides)
    text = written(tmp_path, single_run, other)
    assert f"1 validation image of {single_run.path} left out" in text
    assert f"1 image left out, whose labels differ between the runs: {second.file}" in text
    assert "they do not say" in text
    assert "which are not the same" in text


def test_a_label_beyond_chance_is_listed_with_the_images_it_lost_and_won(
    single_run: Run, spoilt_single: Run, tmp_path: Path
) -> None:
    worse = written(tmp_path, single_run, spoilt_single)
    better = written(tmp_path, spoilt_single, single_run)
    pattern = r'<td>(\w+)</td><td class="(\w+)">\w+</td><td class="number">(\d+)</td>'
    pattern += r'<td class="number">(\d+)</td>'
    lost = re.findall(pattern, worse.partition('id="labels"')[2])
    won = re.findall(pattern, better.partition('id="labels"')[2])
    assert lost and {row[1] for row in lost} == {"worse"}
    assert [(row[0], row[3], row[2]) for row in won] == [(row[0], row[2], row[3]) for row in lost]
    assert {row[1] for row in won} == {"better"}


def test_names_are_escaped(single_run: Run, spoilt_single: Run, tmp_path: Path) -> None:
    other = replace(spoilt_single, path=spoilt_single.path.rename(tmp_path / "a<b>&c"))
    text = written(tmp_path, single_run, other)
    assert "a<b>" not in text and "a&lt;b&gt;&amp;c" in text
