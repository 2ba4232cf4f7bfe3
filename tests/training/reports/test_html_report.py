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
from testkit import image_sets
from training.data import datasets
from training.evaluation import evaluate, scorer
from training.reports import html_report
from training.run_folder import Run

CPU = torch.device("cpu")


class Page(HTMLParser):
    """What a page shows: its text, its pictures, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[Image.Image] = []
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
                    self.pictures.append(Image.open(io.BytesIO(content)))
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


def test_a_run_s_report_stands_alone_and_leads_with_the_verdict(run: Run, task: Task) -> None:
    page = page_of(run.path / "report.html")
    assert page.fetched == []
    metric = run.outcome.metrics[evaluate.HEADLINE[task]]
    images = len(run.split.valid)
    if task == "single":
        headline = f"Wrong on {metric.value:.1%} of {images} images"
    else:
        headline = f"Mean average precision {metric.value:.3f} on {images} images"
    assert page.text.index(headline) < page.text.index("Figures")
    for name in (*run.outcome.labels, "How it learned", "Calibration", "Where it comes from"):
        assert name in page.text
    assert "every epoch" in page.text.lower() and "weights=none" in page.text
    assert run.outcome.provenance.processor in page.text


def test_every_figure_is_there_with_its_interval(run: Run) -> None:
    page = page_of(run.path / "report.html")
    for metric in run.outcome.metrics.values():
        assert f"{metric.value:.4f} {metric.low:.4f} – {metric.high:.4f}" in page.text


def test_mistakes_are_shown_as_served_beside_where_the_network_looked(
    run: Run, task: Task, tmp_path: Path
) -> None:
    subject = scorer.load(str(run.path), CPU)
    turned = replace(subject, run=lambda images: subject.run(images)[:, ::-1])
    page = written(turned, tmp_path / "new")
    assert len(page.pictures) >= 8 and len(page.pictures) % 2 == 0
    assert {picture.size for picture in page.pictures} == {(image_sets.SIZE_PX, image_sets.SIZE_PX)}
    picture, looked = (np.asarray(p.convert("RGB")).astype(int) for p in page.pictures[:2])
    assert np.abs(picture - looked).max() > 60
    words = (
        r"called \w+ 0\.\d{3} is \w+ 0" if task == "single" else r"(wrongly|not) tagged \w+ [01]"
    )
    assert re.search(words, page.text)


def test_a_model_without_mistakes_says_so(single_run: Run, tmp_path: Path) -> None:
    subject = scorer.load(str(single_run.path), CPU)
    channel = {"blue": 2, "green": 1, "red": 0}
    order = [channel[label] for label in subject.labels]

    def knowing(
        images: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]",
    ) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
        means = images.mean((1, 2))[:, order]
        return np.asarray(means / means.sum(1, keepdims=True), np.float32)

    page = written(replace(subject, run=knowing), tmp_path / "new")
    assert "None: every image was decided rightly." in page.text
    assert page.pictures == [] and "Wrong on 0.0% of 24 images" in page.text


def test_a_bundle_s_report_has_no_curves(bundle: Bundle, tmp_path: Path) -> None:
    page = written(scorer.load(str(bundle.path), CPU), tmp_path / "new")
    assert "How it learned" not in page.text
    assert f"{bundle.manifest.name}:1" in page.text


def test_a_network_without_maps_shows_its_mistakes_alone(
    single_bundle: Bundle, tmp_path: Path
) -> None:
    subject = scorer.load(str(single_bundle.path), CPU)
    blind = replace(subject, maps=None, run=lambda images: subject.run(images)[:, ::-1])
    page = written(blind, tmp_path / "new")
    assert page.pictures and "where the network looked" not in page.text


def test_labels_and_files_are_text_not_markup(single_run: Run, tmp_path: Path) -> None:
    subject = scorer.load(str(single_run.path), CPU)
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
    subject = scorer.load(str(request.getfixturevalue(f"{task}_run").path), CPU)
    written(subject, tmp_path / "a")
    written(subject, tmp_path / "b")
    assert (tmp_path / "a/report.html").read_bytes() == (tmp_path / "b/report.html").read_bytes()
