import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.bundle import Bundle
from models.manifest import Task
from models.outputs import Outputs
from testkit import image_sets
from training import run_folder
from training.data import datasets
from training.evaluation import evaluate, scorer
from training.reports import html_report
from training.run_folder import Run

CPU = torch.device("cpu")


class Page(HTMLParser):
    """What a page shows: its text, its images, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[Image.Image] = []
        self.fetched: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        for name, value in attributes:
            if name not in ("src", "href", "xlink:href") or not value or value.startswith("#"):
                continue
            if value.startswith("data:image/"):
                if tag == "img":
                    content = base64.b64decode(value.partition("base64,")[2])
                    self.images.append(Image.open(io.BytesIO(content)))
            else:
                self.fetched.append(value)

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def page_of(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def written(subject: scorer.Scorer, folder: Path, seed: int = 5) -> Page:
    """The report on new images: of one label each, or of none to three."""
    folder.mkdir()
    if subject.task == "single":
        source = image_sets.class_folders(folder / "data", 8, seed)
    else:
        source = image_sets.table(folder / "data", 30, seed)
    evaluation = evaluate.evaluate(subject, datasets.read(str(source), task=subject.task))
    path = folder / "report.html"
    html_report.write(path, subject, evaluation, evaluation.measure())
    return page_of(path)


def test_a_run_s_report_is_self_contained_and_begins_with_the_verdict(run: Run, task: Task) -> None:
    page = page_of(run.path / "report.html")
    assert page.fetched == []
    metric = run.outcome.metrics[evaluate.HEADLINE[task]]
    images = len(run.split.valid)
    if task == "single":
        headline = f"Wrong on {metric.value:.1%} of {images} images"
    else:
        headline = f"Mean average precision {metric.value:.3f} on {images} images"
    assert page.text.index(headline) < page.text.index("Metrics")
    for name in (*run.outcome.labels, "Training curves", "Calibration", "Provenance"):
        assert name in page.text
    assert "every epoch" in page.text.lower() and "weights=none" in page.text
    assert run.outcome.provenance.processor in page.text


def test_every_metric_is_shown_with_its_interval(run: Run) -> None:
    page = page_of(run.path / "report.html")
    for metric in run.outcome.metrics.values():
        assert f"{metric.value:.4f} {metric.low:.4f} – {metric.high:.4f}" in page.text
    assert "bootstrap" not in page.text  # true of some of them only


def test_mistakes_are_shown_as_served_next_to_where_the_network_looked(
    run: Run, task: Task, tmp_path: Path
) -> None:
    subject = scorer.load(run, CPU)
    turned = replace(subject, answer=lambda images: Outputs(subject.run(images)[:, ::-1]))
    page = written(turned, tmp_path / "new")
    assert len(page.images) >= 8 and len(page.images) % 2 == 0
    assert {image.size for image in page.images} == {(image_sets.SIZE_PX, image_sets.SIZE_PX)}
    image, looked = (np.asarray(p.convert("RGB")).astype(int) for p in page.images[:2])
    assert np.abs(image - looked).max() > 60
    words = (
        r"predicted \w+ 0\.\d{3} true \w+ 0"
        if task == "single"
        else r"(wrong|missing) tag \w+ [01]"
    )
    assert re.search(words, page.text)


def test_a_report_without_mistakes_says_so(single_run: Run, tmp_path: Path) -> None:
    subject = scorer.load(single_run, CPU)
    channel = {"blue": 2, "green": 1, "red": 0}
    order = [channel[label] for label in subject.labels]

    def perfect(images: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> Outputs:
        means = images.mean((1, 2))[:, order]
        return Outputs(np.asarray(means / means.sum(1, keepdims=True), np.float32))

    page = written(replace(subject, answer=perfect), tmp_path / "new")
    assert "None: every image was predicted correctly." in page.text
    assert page.images == [] and "Wrong on 0.0% of 24 images" in page.text


def test_a_bundle_s_report_has_no_curves(bundle: Bundle, tmp_path: Path) -> None:
    page = written(scorer.load(bundle.path, CPU), tmp_path / "new")
    assert "Training curves" not in page.text
    assert f"{bundle.manifest.name}:1" in page.text


def test_after_early_stopping_a_rising_loss_is_not_overfitting(
    single_run: Run, tmp_path: Path
) -> None:
    subject = scorer.load(single_run, CPU)
    source = image_sets.class_folders(tmp_path / "data", 4)
    evaluation = evaluate.evaluate(subject, datasets.read(str(source)))
    epochs = [
        replace(epoch, phase="whole", valid_loss=loss)
        for epoch, loss in zip(run_folder.read_epochs(single_run.path), (1, 2), strict=False)
    ]
    history = html_report.History(epochs, [(0.1, 1.0), (0.1, 2.0)])
    for early_stop in (None, 3):
        recipe = {**subject.provenance.recipe, "early_stop": early_stop}
        origin = subject.provenance.model_copy(update={"recipe": recipe})
        stopped, path = replace(subject, provenance=origin), tmp_path / f"{early_stop}.html"
        html_report.write(path, stopped, evaluation, evaluation.measure(), history)
        assert ("It overfits: " in page_of(path).text) == (early_stop is None)


def test_a_network_without_maps_shows_its_mistakes_alone(
    single_bundle: Bundle, tmp_path: Path
) -> None:
    subject = scorer.load(single_bundle.path, CPU)
    turned = replace(subject, answer=lambda images: Outputs(subject.run(images)[:, ::-1]))
    page = written(replace(turned, maps=None), tmp_path / "new")
    assert page.images and "where the network looked" not in page.text


def test_labels_and_files_are_text_not_markup(single_run: Run, tmp_path: Path) -> None:
    subject = scorer.load(single_run, CPU)
    evil = replace(subject, labels=("<script>", "green", "red"))
    table = image_sets.write_csv(
        image_sets.put(tmp_path, "a.jpg", "b.jpg") / "l.csv",
        [["fname", "labels"], ["a.jpg", "<script>"], ["b.jpg", "red"]],
    )
    evaluation = evaluate.evaluate(evil, datasets.read(str(table), task="single"))
    html_report.write(tmp_path / "report.html", evil, evaluation, evaluation.measure())
    text = (tmp_path / "report.html").read_text()
    assert "&lt;script&gt;" in text and "<script>" not in text


@pytest.mark.parametrize("task", ["single", "multi"])
def test_the_same_evaluation_gives_the_same_bytes(
    task: Task, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    subject = scorer.load(request.getfixturevalue(f"{task}_run"), CPU)
    written(subject, tmp_path / "a")
    written(subject, tmp_path / "b")
    assert (tmp_path / "a/report.html").read_bytes() == (tmp_path / "b/report.html").read_bytes()
