"""Pictures of the service's page in each of its states, to look at, and for the README.

python -m scripts.screenshots OUT --store STORE PICTURES…

STORE has one single-label and one multi-label model; PICTURES are for them. Needs Chromium
(`scripts/packages`). The README's picture, `docs/page.webp`, is the demo's (drawings, never images
of a data set):

scripts/demo --once
python -m scripts.screenshots OUT --store demo/bundles demo/circle.jpg
cp OUT/page.webp docs/
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, Route

from testkit.browser import chromium
from testkit.servers import serve

WIDE, USUAL, PHONE = (1920, 1080), (1280, 860), (360, 740)
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, Scheme] = ("light", "dark")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--store", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        with serve(Path(folder), model_store=options.store) as server:
            for scheme in SCHEMES:
                usual_states(browser, server.url, options, scheme)
            phone_states(browser, server.url, options)
            wide_states(browser, server.url, options)
            bad_states(browser, server.url, options)
        empty = Path(folder) / "empty"
        empty.mkdir()
        keys = Path(folder) / "keys"
        keys.write_text("secret\n")
        with (
            serve(
                Path(folder),
                ready=False,
                model_store=empty,
                wait_for_models=True,
                api_keys_file=keys,
            ) as server,
            opened(browser, server.url, USUAL) as page,
        ):
            page.wait_for_selector("#key-form:not([hidden])")
            page.screenshot(path=options.out / "key.png")
            page.fill("#key", "secret")
            page.click("#key-form button")
            page.wait_for_selector("#notice:not([hidden])")
            page.screenshot(path=options.out / "not-ready.png")
    for file in sorted(options.out.glob("*.png")):
        print(file)
    return 0


@contextmanager
def opened(
    browser: Browser, url: str, size: tuple[int, int], scheme: Scheme = "light", scale: float = 1
) -> Iterator[Page]:
    """The page, at rest, in a window of this size."""
    phone = size == PHONE
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        reduced_motion="reduce",
        device_scale_factor=scale,
        is_mobile=phone,
        has_touch=phone,
    )
    page = context.new_page()
    page.goto(f"{url}/")
    yield page
    context.close()


def show(page: Page, pictures: Sequence[Path]) -> None:
    """Choose the pictures, and wait for all answers."""
    page.set_input_files("#files", pictures)
    for number in range(len(pictures)):
        page.locator(".card[aria-busy=false]").nth(number).wait_for()


def usual_states(browser: Browser, url: str, options: argparse.Namespace, scheme: Scheme) -> None:
    out, pictures = options.out, options.pictures
    with opened(browser, url, USUAL, scheme) as page:
        page.wait_for_selector("#samples li:nth-child(3)")
        page.screenshot(path=out / f"start-{scheme}.png")
        show(page, pictures[:1])
        page.mouse.move(0, 0)
        page.screenshot(path=out / f"answer-{scheme}.png")
        page.click(".bar")
        page.mouse.move(0, 0)
        page.screenshot(path=out / f"overlay-{scheme}.png")
        if scheme == "light":
            page.screenshot(path=out / "page.png", clip=clip(page))
            Image.open(out / "page.png").save(out / "page.webp", quality=90, method=6)
        page.click("summary")
        page.screenshot(path=out / f"code-{scheme}.png", full_page=True)
        page.select_option("#chooser", index=1)
        page.wait_for_selector(".card[aria-busy=false] .tick")
        page.click(".bar")
        page.mouse.move(0, 0)
        page.screenshot(path=out / f"tags-{scheme}.png")


def clip(page: Page) -> FloatRect:
    """From the top of the page to the end of its first card."""
    box = page.locator(".card").first.bounding_box()
    assert box is not None
    return {"x": 0, "y": 0, "width": USUAL[0], "height": box["y"] + box["height"] + 28}


def phone_states(browser: Browser, url: str, options: argparse.Namespace) -> None:
    for scheme in SCHEMES:
        with opened(browser, url, PHONE, scheme, scale=2) as page:
            page.wait_for_selector("#samples li:nth-child(3)")
            page.screenshot(path=options.out / f"phone-start-{scheme}.png")
            show(page, options.pictures[:1])
            page.click(".bar")
            page.locator(".card").scroll_into_view_if_needed()
            page.screenshot(path=options.out / f"phone-{scheme}.png")
            page.screenshot(path=options.out / f"phone-whole-{scheme}.png", full_page=True)


def wide_states(browser: Browser, url: str, options: argparse.Namespace) -> None:
    with opened(browser, url, WIDE) as page:
        page.wait_for_selector("#samples li:nth-child(3)")
        show(page, options.pictures)
        page.screenshot(path=options.out / "wide-several.png")


def bad_states(browser: Browser, url: str, options: argparse.Namespace) -> None:
    out = options.out
    with opened(browser, url, USUAL) as page:
        page.wait_for_selector("#samples li:nth-child(3)")

        def wait_for_ever(route: Route) -> None:
            pass

        page.route("**/classify?*", wait_for_ever)
        page.set_input_files("#files", options.pictures[0])
        page.wait_for_selector(".card")
        page.wait_for_timeout(300)  # the picture's own decoding
        page.screenshot(path=out / "loading.png")
        page.unroute("**/classify?*")
        page.click(".remove")
        files: list[tuple[str, str, bytes]] = [
            ("notes.txt", "text/plain", b"not a picture"),
            ("moving.gif", "image/gif", b"GIF89a" + bytes(20)),
            ("holiday.jpg", "image/jpeg", bytes(20 * 2**20)),
        ]
        for name, kind, data in files:
            page.set_input_files("#files", {"name": name, "mimeType": kind, "buffer": data})
            page.locator(".card.failed").first.wait_for()
        page.screenshot(path=out / "errors.png", full_page=True)
    with opened(browser, url, USUAL) as page:
        page.wait_for_selector("#samples li:nth-child(3)")
        page.context.set_offline(True)
        page.set_input_files("#files", options.pictures[0])
        page.wait_for_selector(".again:not([hidden])")
        page.screenshot(path=out / "unreachable.png")


if __name__ == "__main__":
    sys.exit(main())
