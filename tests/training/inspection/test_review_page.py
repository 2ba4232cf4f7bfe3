import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit import image_sets
from training.data import datasets, quarantine
from training.data.corrections import Correction
from training.inspection import review_page

pytest.importorskip("playwright")

from playwright.sync_api import Browser, Page

from testkit import browser

NAME = 'a "b", c.jpg'


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not shutil.which(browser.PROGRAM):
        pytest.skip("the browser is missing: chromium")
    with browser.chromium() as started:
        yield started


def data_of(folder: Path) -> Path:
    """Six images of three labels."""
    files = [f"cat/{NAME}", "cat/1.jpg", "dog/2.jpg", "dog/3.jpg", "red fox/4.jpg", "dog/5.jpg"]
    return image_sets.put(folder / "data", *files)


FOUND = [
    Correction(f"cat/{NAME}", "cat", "dog", 0.99),
    Correction("cat/1.jpg", "cat", "dog", 0.98),
    Correction("dog/2.jpg", "dog", "cat", 0.97),
    Correction("dog/3.jpg", "dog", "cat", 0.96),
]


def page_of(folder: Path, found: list[Correction], task: str = "single") -> Path:
    dataset = datasets.read(str(data_of(folder)), task="multi" if task == "multi" else None)
    path = folder / "suspects.html"
    review_page.write(
        path,
        review_page.Words("Suspect labels of my <photos>", "The surest", "suspects.csv"),
        dataset.root,
        dataset.records,
        found,
        dataset.labels,
        {"dog/5.jpg": "bad: no image"},
    )
    return path


def downloaded(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as waited:
        page.click(f"#{button}")
    file = folder / waited.value.suggested_filename
    waited.value.save_as(file)
    return file


def rows_of(file: Path) -> list[list[str]]:
    with file.open(newline="") as text:
        return list(csv.reader(text))


def test_keys_decide_and_the_lists_that_it_writes_are_read(
    chromium: Browser, tmp_path: Path
) -> None:
    path = page_of(tmp_path, FOUND)
    page = chromium.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    assert page.title() == "Suspect labels of my <photos> · Labrador"
    assert page.inner_text("#progress") == "0 of 4 decided"
    for key in ("y", "n", "x", "y"):
        page.keyboard.press(key)
    progress = "4 of 4 decided: 2 to change, 1 right, 1 left out"
    assert page.inner_text("#progress") == progress
    page.keyboard.press("u")
    assert page.inner_text("#progress").startswith("3 of 4 decided: 1 to change")
    fixes = downloaded(page, "corrections", tmp_path)
    left_out = downloaded(page, "quarantine", tmp_path)
    header = ["file", "given", "suggested", "sure"]
    assert rows_of(fixes) == [header, [f"cat/{NAME}", "cat", "dog", "0.9900"]]
    expected = {"dog/5.jpg": "bad: no image", "dog/2.jpg": "left out by eye"}
    assert quarantine.read(left_out) == expected
    found = datasets.read(str(tmp_path / "data"), correct=str(fixes), quarantine=str(left_out))
    labels = {record.file: record.labels[0] for record in found.records}
    assert (labels[f"cat/{NAME}"], labels["cat/1.jpg"], len(labels)) == ("dog", "cat", 4)
    assert {url.partition(":")[0] for url in requests} <= {"file", "data", "blob"}
    assert errors == []
    page.close()


def test_what_was_decided_is_still_there_when_the_page_is_opened_again(
    chromium: Browser, tmp_path: Path
) -> None:
    path, context = page_of(tmp_path, FOUND), chromium.new_context()
    page = context.new_page()
    page.goto(path.as_uri())
    page.keyboard.press("n")
    page.fill("article:nth-of-type(2) input", "red fox")
    page.click("article:nth-of-type(2) [data-does=accept]")
    page.reload()
    assert page.inner_text("#progress").startswith("2 of 4 decided: 1 to change, 1 right")
    fixes = rows_of(downloaded(page, "corrections", tmp_path))
    assert fixes[1:] == [["cat/1.jpg", "cat", "red fox", "0.9800"]]
    context.close()


@pytest.mark.parametrize("label", ["wolf", "cat", ""])
def test_only_another_label_of_the_data_can_be_chosen(
    chromium: Browser, tmp_path: Path, label: str
) -> None:
    page = chromium.new_page()
    page.goto(page_of(tmp_path, FOUND).as_uri())
    page.fill("article:nth-of-type(1) input", label)
    page.click("article:nth-of-type(1) [data-does=accept]")
    assert page.inner_text("#progress") == "0 of 4 decided"
    page.fill("article:nth-of-type(1) input", "red fox")
    page.click("article:nth-of-type(1) [data-does=accept]")
    assert page.inner_text("#progress").startswith("1 of 4 decided: 1 to change")
    page.close()


def test_letters_typed_as_a_label_decide_nothing(chromium: Browser, tmp_path: Path) -> None:
    page = chromium.new_page()
    page.goto(page_of(tmp_path, FOUND).as_uri())
    page.focus("article:nth-of-type(1) input")
    page.keyboard.type("xyn")
    assert page.inner_text("#progress") == "0 of 4 decided"
    page.close()


def test_tags_are_added_and_taken_away(chromium: Browser, tmp_path: Path) -> None:
    changes = [Correction("cat/1.jpg", "", "dog", 0.9), Correction("dog/3.jpg", "dog", "", 0.8)]
    page = chromium.new_page()
    page.goto(page_of(tmp_path, changes, "multi").as_uri())
    text = page.inner_text("main")
    assert "add dog?" in text and "take away dog?" in text and "labels: cat" in text
    page.keyboard.press("y")
    page.keyboard.press("y")
    fixes = downloaded(page, "corrections", tmp_path)
    found = datasets.read(str(tmp_path / "data"), task="multi", correct=str(fixes))
    labels = {record.file: record.labels for record in found.records}
    assert (labels["cat/1.jpg"], labels["dog/3.jpg"]) == (("cat", "dog"), ())
    page.close()


def test_the_page_shows_the_pictures_of_the_surest_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_page, "SHOWN", 3)
    text = page_of(tmp_path, FOUND).read_text()
    assert text.count("data:image/jpeg;base64,") == 3
    assert "The first 3 of 4; the others are in suspects.csv." in text


def test_a_page_without_suspects_says_so(tmp_path: Path) -> None:
    assert "None: no label is suspect." in page_of(tmp_path, []).read_text()
