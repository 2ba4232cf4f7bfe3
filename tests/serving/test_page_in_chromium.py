"""The page at `/`, used in a real browser as a person uses it."""

import base64
import contextlib
import io
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, FilePayload, Page, expect

from models.outputs import Outputs
from models.store import Store
from serving import follower
from serving.session import Session
from testkit import mapped_models, novel_models, tiny_models
from testkit.browser import PROGRAM, chromium
from testkit.in_process import Hold, Inside
from testkit.odd_images import encoded, png
from testkit.servers import get, post
from testkit.waiting import until
from training.reports.activation_maps import overlay

WITHIN_MS = 15_000
Start = Callable[..., Inside]
RED = tiny_models.picture((200, 30, 30))


def striped() -> bytes:
    """96 x 64 pixels, of which the network sees the centre: green at the left, red, blue."""
    pixels = np.full((64, 96, 3), (200, 30, 30), np.uint8)
    pixels[:, :40] = (20, 180, 60)
    pixels[32:, 56:] = (30, 60, 220)
    return encoded(pixels, "PNG")


STRIPED = striped()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed")
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open the page of a server; at the end, nothing may have gone wrong in any of them."""
    wrong: list[str] = []
    with contextlib.ExitStack() as contexts:

        def open_page(server: Inside, **options: Any) -> Page:
            # otherwise axe may look at text that is just fading in
            context = browser.new_context(**{"reduced_motion": "reduce", **options})
            contexts.callback(context.close)
            context.set_default_timeout(WITHIN_MS)
            page = context.new_page()

            def note(message: ConsoleMessage) -> None:
                if not message.text.startswith("Failed to load resource"):  # a refusal's own line
                    wrong.append(message.text)

            page.on("console", note)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on(
                "request",
                lambda request: (
                    None
                    if request.url.startswith((f"{server.url}/", f"blob:{server.url}/"))
                    else wrong.append(request.url)
                ),
            )
            page.add_init_script(
                "addEventListener('securitypolicyviolation', (event) =>"
                " console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))"
            )
            page.goto(f"{server.url}/")
            return page

        yield open_page
    assert not wrong


def choose(page: Page, *files: tuple[str, bytes]) -> None:
    payloads: list[FilePayload] = [
        {"name": name, "mimeType": "image/png", "buffer": data} for name, data in files
    ]
    page.set_input_files("#files", payloads)


def answered(page: Page, cards: int = 1) -> None:
    expect(page.locator(".card[aria-busy=false]")).to_have_count(cards, timeout=WITHIN_MS)


def shown(page: Page) -> list[tuple[str, str]]:
    """The labels and percentages of the first card, as a person reads them."""
    bars = page.locator(".card").first.locator(".bar")
    return [
        (bar.locator(".label").inner_text(), bar.locator(".percent").inner_text())
        for bar in bars.all()
    ]


def expected(server: Inside, query: str, image: bytes) -> list[dict[str, Any]]:
    answer = post(f"{server.url}/{query}", content=image).json()
    found: list[dict[str, Any]] = answer.get("predictions", answer.get("tags"))
    return found


def percent(share: float) -> str:
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def check_accessible(page: Page) -> None:
    """axe-core finds nothing, and nothing is wider than the window."""
    results = Axe().run(page, options={"resultTypes": ["violations"]})
    assert results.violations_count == 0, results.generate_report()
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]


def test_the_bars_are_the_apis_numbers(inside: Start, mapped: Path, visit: Any) -> None:
    server = inside(model_store=mapped, models=("colours",))
    page = visit(server)
    choose(page, ("striped.png", STRIPED))
    answered(page)
    found = expected(server, "classify", STRIPED)
    assert shown(page) == [(p["label"], percent(p["probability"])) for p in found]
    widths = page.locator(".fill").evaluate_all("bars => bars.map(bar => bar.style.width)")
    shares = [float(width.removesuffix("%")) / 100 for width in widths]
    assert shares == pytest.approx([p["probability"] for p in found], abs=1e-6)
    assert page.locator(".verdict").inner_text() == found[0]["label"]
    assert page.locator(".share").inner_text() == percent(found[0]["probability"])
    assert "colours 1 · fp32 on CPU · " in page.locator(".by").inner_text()
    pure = encoded(np.full((48, 48, 3), (255, 0, 0), np.uint8), "PNG")
    choose(page, ("pure.png", pure))
    answered(page, 2)
    assert [words for _, words in shown(page)] == ["100.0 %", "< 0.1 %", "< 0.1 %"]


def test_tags_are_beside_their_thresholds_and_near_misses_below(
    inside: Start, visit: Any, tmp_path: Path
) -> None:
    needs = {"red": 0.6, "green": 0.9, "blue": 0.95}
    mapped_models.add(tmp_path, "tags", "multi", tuple(needs.values()))
    server = inside(model_store=tmp_path)
    page = visit(server)

    def lists() -> dict[str | None, list[str]]:
        groups = page.locator(".card").first.locator(".bars ul").all()
        return {
            group.get_attribute("aria-label"): group.locator(".label").all_inner_texts()
            for group in groups
        }

    choose(page, ("striped.png", STRIPED))
    answered(page)
    above = [tag["label"] for tag in expected(server, "tag", STRIPED)]
    every = {tag["label"]: tag for tag in expected(server, "tag?threshold=0", STRIPED)}
    assert (above, list(every)) == (["red"], ["red", "green", "blue"])
    assert lists() == {"Tags": ["red"], "Just below": ["green", "blue"]}
    assert page.locator(".verdict").inner_text() == "red"
    assert shown(page) == [(name, percent(tag["probability"])) for name, tag in every.items()]
    for bar, share in zip(page.locator(".bar").all(), needs.values(), strict=True):
        assert bar.locator(".needs").inner_text() == f"needs {percent(share)}"
        assert bar.locator(".tick").evaluate("e => e.style.left") == f"{100 * share:g}%"
    choose(page, ("red.jpg", RED))
    answered(page, 2)
    assert lists() == {"Tags": ["red"]}  # the others are far below
    choose(page, ("black.png", encoded(np.zeros((48, 48, 3), np.uint8), "PNG")))
    answered(page, 3)
    assert page.locator(".verdict").first.inner_text() == "None of its 3 labels"
    assert list(lists()) == ["Just below"]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_a_stranger_is_none_of_these_with_how_unusual_it_is_and_what_it_would_be(
    inside: Start, visit: Any, tmp_path: Path, scheme: str, width: int
) -> None:
    novel_models.add(tmp_path, "colours", "single")
    novel_models.add(tmp_path, "tags", "multi")
    server = inside(model_store=tmp_path)
    page = visit(server, color_scheme=scheme, viewport={"width": width, "height": 740})
    strange, verdict = page.locator(".strange").first, page.locator(".verdict").first
    grey = encoded(np.full((48, 48, 3), (140, 125, 125), np.uint8), "PNG")
    choose(page, ("grey.png", grey))
    answered(page)
    assert not post(f"{server.url}/classify", content=grey).json()["novelty"]["unknown"]
    expect(verdict).to_have_text("red")
    expect(strange).to_be_hidden()
    choose(page, ("red.jpg", RED))
    answered(page, 2)
    answer = post(f"{server.url}/classify", content=RED).json()
    assert answer["novelty"] == {"p_value": 0.005, "unknown": True}
    says = "It is stranger than 99.5 % of the pictures that the model was checked on."
    expect(verdict).to_have_text("None of these")
    expect(strange).to_have_text(f"{says} All the same, it would say:")
    expect(page.locator(".share").first).to_have_text("")
    expect(page.locator("#spoken")).to_have_text(f"red.jpg: None of these {says}")
    assert shown(page) == [(p["label"], percent(p["probability"])) for p in answer["predictions"]]
    assert page.locator(".bars").first.is_visible()
    check_accessible(page)
    page.select_option("#chooser", "tags")
    expect(page.locator(".by").first).to_contain_text("tags 1")
    expect(verdict).to_have_text("None of these")
    expect(strange).to_contain_text("All the same, it would say:")
    choose(page, ("black.png", encoded(np.zeros((48, 48, 3), np.uint8), "PNG")))
    answered(page, 3)
    expect(strange).to_have_text(f"{says} All the same, it would say:")  # what is just below
    check_accessible(page)
    page.locator(".remove").first.click()
    page.select_option("#chooser", "colours")
    expect(page.locator(".by").last).to_contain_text("colours 1")
    expect(page.locator(".strange").last).to_be_hidden()  # again the grey one


def test_pictures_are_dropped_and_pasted_several_at_once(
    inside: Start, mapped: Path, visit: Any
) -> None:
    page = visit(inside(model_store=mapped, models=("colours",)))
    files = [("one.png", STRIPED), ("two.png", STRIPED), ("three.jpg", RED)]
    carried = page.evaluate_handle(
        """(files) => {
            const data = new DataTransfer();
            for (const [name, text] of files) {
                const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
                data.items.add(new File([bytes], name, { type: "image/png" }));
            }
            return data;
        }""",
        [(name, base64.b64encode(data).decode()) for name, data in files],
    )
    page.dispatch_event("main", "dragenter", {"dataTransfer": carried})
    expect(page.locator("#dropping")).to_be_visible()
    page.dispatch_event("main", "drop", {"dataTransfer": carried})
    expect(page.locator("#dropping")).to_be_hidden()
    answered(page, 3)
    assert set(page.locator(".name").all_inner_texts()) == {name for name, _ in files}
    page.evaluate(
        "(data) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))",
        carried,
    )
    answered(page, 6)
    page.locator(".remove").first.click()
    answered(page, 5)


def test_a_samples_answer_and_a_change_of_the_model(
    inside: Start, mapped: Path, visit: Any
) -> None:
    server = inside(model_store=mapped, models=("colours", "tags", "plain"))
    page = visit(server)
    page.click("#samples li:nth-child(2) button")
    answered(page)
    sample = httpx.get(f"{server.url}/models/colours/samples/2").content
    found = expected(server, "classify?model=colours", sample)
    assert shown(page) == [(p["label"], percent(p["probability"])) for p in found]
    page.select_option("#chooser", "tags")
    expect(page.locator(".by")).to_contain_text("tags 1")
    expect(page.locator(".needs").first).to_be_visible()
    page.select_option("#chooser", "plain")  # has no maps
    expect(page.locator(".by")).to_contain_text("plain 1")
    expect(page.locator(".bar").first).to_be_disabled()


def canvas(page: Page) -> NDArray[np.uint8]:
    """The overlay as RGBA."""
    text = page.locator("canvas").first.evaluate("canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))))


def over_grey(drawn: NDArray[np.uint8]) -> NDArray[np.float64]:
    weight = drawn[..., 3:] / 255
    return drawn[..., :3] * weight + 128 * (1 - weight)


def test_a_label_shows_where_the_network_looked_as_the_report_does(
    inside: Start, mapped: Path, visit: Any
) -> None:
    server = inside(model_store=mapped, models=("colours",))
    page = visit(server)
    choose(page, ("striped.png", STRIPED))
    answered(page)
    answer = post(f"{server.url}/classify?maps=true", content=STRIPED).json()
    grey, drawings = np.full((224, 224, 3), 128, np.uint8), []
    for number, prediction in enumerate(answer["predictions"]):
        page.locator(".bar").nth(number).click()
        expect(page.locator(".bar[aria-pressed=true] .label")).to_have_text(prediction["label"])
        assert f"rather than {prediction['against']}" in page.locator(".compared").inner_text()
        drawings.append(canvas(page))
        report = overlay(grey, np.array(prediction["map"], np.float32))
        np.testing.assert_allclose(over_grey(drawings[-1]), report, atol=2)
    assert not np.array_equal(drawings[0], drawings[2])
    picture, seen = (page.locator(name).bounding_box() for name in (".picture", ".seen"))
    left, top, right, bottom = answer["box"]
    assert seen["x"] - picture["x"] == pytest.approx(left * picture["width"], abs=1)
    assert seen["y"] - picture["y"] == pytest.approx(top * picture["height"], abs=1)
    assert seen["width"] == pytest.approx((right - left) * picture["width"], abs=1)
    assert seen["height"] == pytest.approx((bottom - top) * picture["height"], abs=1)
    page.locator(".dim input").fill("40")
    assert page.locator("canvas").evaluate("e => getComputedStyle(e).opacity") == "0.4"
    page.locator(".bar[aria-pressed=true]").click()
    expect(page.locator(".seen")).to_be_hidden()


def test_a_turned_photo_and_its_overlay_stand_upright(
    inside: Start, mapped: Path, visit: Any
) -> None:
    server = inside(model_store=mapped, models=("tags",))
    page = visit(server)
    pixels = Image.open(io.BytesIO(STRIPED))
    choose(page, ("turned.jpg", encoded(pixels, "JPEG", 6, quality=95)))
    answered(page)
    page.locator(".bar", has=page.get_by_text("green", exact=True)).click()
    picture = page.locator(".picture").bounding_box()
    assert picture["height"] == pytest.approx(1.5 * picture["width"], abs=1)
    alpha_red = over_grey(canvas(page))
    assert alpha_red[20, 112, 0] > alpha_red[20, 112, 2]  # green is at the top now
    assert alpha_red[200, 112, 0] < alpha_red[200, 112, 2]


BAD = {
    "moving.gif": (
        encoded(Image.new("P", (8, 8)), "GIF"),
        "It cannot read this format",
        "The image is GIF; use JPEG, PNG or WebP.",
    ),
    "bomb.png": (
        png(30_000, 30_000, 8, 2, b""),
        "This picture has too many pixels",
        "more than the limit of 25 megapixels. A smaller copy works",
    ),
    "notes.txt": (
        b"no picture at all",
        "It cannot read this file",
        "The bytes are not a JPEG, PNG or WebP image. Save it again",
    ),
    "large.jpg": (bytes(20 * 2**20), "This file is too large", "20.0 MiB, more than the limit"),
    "empty.jpg": (b"", "This file is empty", "Send one image"),
}


def test_a_bad_file_is_told_what_is_wrong_and_what_works(
    inside: Start, mapped: Path, visit: Any, tmp_path: Path
) -> None:
    page = visit(inside(model_store=mapped, models=("colours",)))
    for name, (data, _, _) in BAD.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "good.png").write_bytes(STRIPED)
    page.set_input_files("#files", list(tmp_path.iterdir()))
    answered(page, len(BAD) + 1)
    assert page.locator(".card:not(.failed) .name").all_inner_texts() == ["good.png"]
    for name, (_, title, text) in BAD.items():
        bad = page.locator(".card.failed", has=page.get_by_text(name, exact=True))
        assert bad.locator(".verdict").inner_text() == title
        assert text in bad.locator(".explained").inner_text()
        assert not bad.locator(".again").is_visible()
    check_accessible(page)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing_in_any_state(
    inside: Start, mapped: Path, visit: Any, scheme: str, width: int
) -> None:
    phone = width == 360
    page = visit(
        inside(model_store=mapped, models=("colours", "tags")),
        color_scheme=scheme,
        viewport={"width": width, "height": 740},
        **({"is_mobile": True, "has_touch": True} if phone else {}),
    )
    page.wait_for_selector("#samples li:nth-child(3)")
    assert page.locator("#photograph").is_visible() == phone
    check_accessible(page)
    choose(page, ("a long name of a picture that was taken on a holiday.png", STRIPED))
    answered(page)
    page.locator(".bar").first.click()
    page.locator("summary").click()
    check_accessible(page)
    page.select_option("#chooser", "tags")
    expect(page.locator(".needs").first).to_be_visible()
    check_accessible(page)


def test_the_keyboard_is_enough(inside: Start, mapped: Path, visit: Any) -> None:
    page = visit(inside(model_store=mapped, models=("colours",)))
    page.on("filechooser", lambda _: None)  # from now on the browser reports it
    page.wait_for_selector("#samples li:nth-child(3)")

    def tab_to(selector: str) -> None:
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("(s) => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#choose")
    with page.expect_file_chooser() as opened:
        page.keyboard.press("Enter")
    assert opened.value.is_multiple()
    tab_to("#samples button")
    page.keyboard.press("Enter")
    answered(page)
    expect(page.locator("#spoken")).to_contain_text("sample 1: red 9")
    tab_to(".bar")
    page.keyboard.press("Space")
    expect(page.locator(".seen")).to_be_visible()
    page.keyboard.press("Space")
    expect(page.locator(".seen")).to_be_hidden()
    tab_to("summary")
    page.keyboard.press("Enter")
    expect(page.locator(".curl")).to_be_visible()


def test_nothing_moves_where_the_system_asks_for_calm(
    inside: Start, mapped: Path, visit: Any
) -> None:
    server = inside(model_store=mapped, models=("colours",))
    moving = "document.getAnimations().length"
    for motion, expected_to_move in (("reduce", False), ("no-preference", True)):
        page = visit(server, reduced_motion=motion)
        page.route("**/classify?*", lambda route: None)  # it stays in the state of loading
        choose(page, ("striped.png", STRIPED))
        page.wait_for_selector(".card[aria-busy=true]")
        assert (page.evaluate(moving) > 0) == expected_to_move
        page.unroute_all(behavior="ignoreErrors")


def test_a_key_is_asked_for_and_kept_for_the_session_only(
    inside: Start, mapped: Path, visit: Any, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("right\n")
    page = visit(inside(model_store=mapped, models=("colours",), api_keys_file=tmp_path / "keys"))
    choose(page, ("striped.png", STRIPED))
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-help")).to_have_text("The service does not know that key.")
    check_accessible(page)
    page.fill("#key", "right")
    page.keyboard.press("Enter")
    answered(page)
    expect(page.locator("#samples li")).to_have_count(3)
    assert page.evaluate("Object.values(sessionStorage)") == ["right"]
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert "right" not in page.url + page.locator(".curl").inner_text()
    assert "Bearer $KEY" in page.locator(".curl").text_content()


def test_a_service_that_is_not_ready_is_waited_for(
    inside: Start, visit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_RETRY_S", 0.05)
    server = inside(ready=False, model_store=tmp_path)
    page = visit(server)
    expect(page.locator("#notice")).to_contain_text("The service is not ready. There is no model")
    check_accessible(page)
    choose(page, ("striped.png", STRIPED))
    mapped_models.add(tmp_path, "colours", "single")
    answered(page)
    expect(page.locator("#notice")).to_be_hidden()


def test_the_version_that_answered_is_told_by_its_own_thresholds(
    inside: Start, visit: Any, tmp_path: Path
) -> None:
    first = mapped_models.add(tmp_path, "tags", "multi")
    Store(tmp_path).release("tags", 1)
    server = inside(model_store=tmp_path, reload_s=0.05)
    page = visit(server)
    page.wait_for_selector("#samples li:nth-child(3)")
    mapped_models.add(tmp_path, "tags", "multi", (0.25, 0.25, 0.25))
    Store(tmp_path).release("tags", 2)
    until(lambda: get(f"{server.url}/readyz").json()["models"][0]["version"] == "2")
    choose(page, ("striped.png", STRIPED))
    answered(page)
    assert first.name == "1" and "tags 2" in page.locator(".by").inner_text()
    assert set(page.locator(".needs").all_inner_texts()) == {"needs 25.0 %"}


def test_a_service_that_is_gone_is_tried_again(inside: Start, mapped: Path, visit: Any) -> None:
    page = visit(inside(model_store=mapped, models=("colours",)))
    page.wait_for_selector("#samples li:nth-child(3)")
    page.clock.install()
    page.clock.pause_at(time.time() + 3600)  # its own pauses do not end
    page.context.set_offline(True)
    choose(page, ("striped.png", STRIPED))
    expect(page.locator(".explained")).to_contain_text("The service does not answer")
    page.context.set_offline(False)
    answered(page)
    expect(page.locator(".explained")).to_be_hidden()


def test_a_busy_service_is_tried_again_when_it_says(
    inside: Start, mapped: Path, visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, run, busy = Hold(), Session.outputs, threading.Event()

    def held(session: Session, images: NDArray[np.uint8], maps: bool = False) -> Outputs:
        if busy.is_set():
            hold()
        return run(session, images, maps)

    monkeypatch.setattr(Session, "outputs", held)
    server = inside(model_store=mapped, models=("colours",), max_queue=64)
    page = visit(server)
    page.wait_for_selector("#samples li:nth-child(3)")
    busy.set()
    parts = [("image", RED)] * 64
    full = threading.Thread(target=lambda: post(f"{server.url}/classify", files=parts, timeout=60))
    full.start()
    try:
        hold.wait()
        choose(page, ("striped.png", STRIPED))
        expect(page.locator(".explained")).to_contain_text("The service is busy. No room for 1")
        check_accessible(page)
    finally:
        hold.go.set()
        full.join()
    page.locator(".again button").click()
    answered(page)


def test_what_it_did_is_there_as_code_that_works(
    inside: Start, mapped: Path, visit: Any, tmp_path: Path
) -> None:
    server = inside(model_store=mapped, models=("colours",))
    page = visit(server)
    (tmp_path / "a dog's.png").write_bytes(STRIPED)
    choose(page, ("a dog's.png", STRIPED))
    page.wait_for_selector("#samples li:nth-child(3)")
    page.click("#samples li:first-child button")
    answered(page, 2)
    for card in page.locator(".card").all():
        label = card.locator(".verdict").inner_text()
        command = card.locator(".curl").text_content()
        curl = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True
        )
        assert json.loads(curl.stdout)["predictions"][0]["label"] == label
        program = card.locator(".python").text_content()
        python = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=True
        )
        assert f"'label': '{label}'" in python.stdout.decode()
