"""Sends images to a running service: python examples/client.py URL IMAGE... [--task multi]

Self-contained: copy it. It needs only httpx.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

_PATHS = {"single": "/classify", "multi": "/tag"}
_OF_ONE_IMAGE = {"image_missing", "format_unsupported", "image_undecodable", "image_too_large"}
_ATTEMPTS = 3


class RefusedError(Exception):
    """The service refused the whole request; `problem` has its `code`, `status` and `detail`."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(f"{problem['code']}: {problem['detail']}")
        self.problem = problem


def ask(
    url: str, images: Sequence[bytes], task: str = "single", key: str = "", **parameters: str
) -> list[dict[str, Any]]:
    """One result per image, in order: {"predictions": […]}, {"tags": […]} or {"error": {…}}.

    task: single or multi. parameters: model, alpha, and top_k and coverage (single) or threshold
    (multi). key: if the service requires one. Waits and retries if the service is overloaded.
    Raises RefusedError if the whole request fails, httpx.HTTPError if the response is not from the
    service.
    """
    parts = [("image", image) for image in images]
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    for attempt in range(1, _ATTEMPTS + 1):
        response = httpx.post(
            url + _PATHS[task], files=parts, params=parameters, headers=headers, timeout=60
        )
        if response.status_code != 429 or attempt == _ATTEMPTS:
            break
        time.sleep(int(response.headers.get("Retry-After", 1)))
    if response.headers.get("content-type") != "application/problem+json":
        response.raise_for_status()  # a proxy in front has its own error format
    answer: dict[str, Any] = response.json()
    if response.is_success:
        results: list[dict[str, Any]] = answer.get("results", [answer])
        return results
    if len(images) == 1 and answer["code"] in _OF_ONE_IMAGE:  # as in a request with several images
        return [{"error": answer}]
    raise RefusedError(answer)


def as_text(result: dict[str, Any]) -> str:
    """One image's result as a line of text."""
    if "error" in result:
        return f"error: {result['error']['detail']}"
    found = result["predictions"] if "predictions" in result else result["tags"]
    text = ", ".join(f"{one['label']} {one['probability']:.0%}" for one in found) or "no tags"
    # models from before do not measure it
    return f"unknown; if anything: {text}" if result.get("novelty", {}).get("unknown") else text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="such as http://localhost:3000")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--task", choices=sorted(_PATHS), default="single")
    parser.add_argument("--model", help="needed if several models of the task are served")
    parser.add_argument("--key", default="", help="API key, if the service requires one")
    options = parser.parse_args()
    try:
        contents = [file.read_bytes() for file in options.images]
        chosen = {"model": options.model} if options.model else {}
        url = options.url.rstrip("/")
        results = ask(url, contents, options.task, options.key, **chosen)
    except (RefusedError, httpx.HTTPError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for file, result in zip(options.images, results, strict=True):
        print(f"{file}: {as_text(result)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
