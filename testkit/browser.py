"""Debian's Chromium, driven by Playwright, for tests of the page and for pictures of it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

PROGRAM = "chromium"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without windows. Needs the program `chromium`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which(PROGRAM),
            args=["--no-sandbox"],  # as root, in a container, it has no other way to start
        )
        try:
            yield browser
        finally:
            browser.close()
