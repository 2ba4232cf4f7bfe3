"""`scripts/audit` against a fake vulnerability database with OSV's API."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from testkit import http_stub
from testkit.servers import ROOT, free_port

pytestmark = pytest.mark.long
FOUND = {
    "id": "OSV-2026-1",
    "summary": "planted",
    "modified": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "pillow"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
        }
    ],
}


@contextmanager
def database(vulnerable: str) -> Iterator[tuple[str, list[str]]]:
    """A vulnerability database; its URL, and the package names it was asked for."""
    asked: list[str] = []

    class Handler(http_stub.Quiet):
        def do_POST(self) -> None:  # noqa: N802 the name is http.server's
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(query["package"]["name"])
            body = json.dumps({"vulns": [FOUND]} if asked[-1] == vulnerable else {}).encode()
            self.answer(body, "application/json")

    with http_stub.answering(Handler) as port:
        yield f"http://127.0.0.1:{port}/v1/query", asked


def audited(url: str) -> "subprocess.CompletedProcess[str]":
    command = ["scripts/audit", "--vulnerability-service", "osv", "--osv-url", url]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_pinned_package_is_asked_about() -> None:
    with database(vulnerable="none") as (url, asked):
        done = audited(url)
    assert done.returncode == 0, done.stderr
    assert "No known vulnerabilities found" in done.stderr
    locks = [(ROOT / "requirements" / name).read_text() for name in ("all.txt", "uv.txt")]
    lines = "\n".join(locks).splitlines()
    assert {line.split("==")[0] for line in lines if "==" in line and ";" not in line} <= set(asked)


def test_a_vulnerable_package_fails_it() -> None:
    with database(vulnerable="pillow") as (url, _):
        done = audited(url)
    assert done.returncode == 1
    assert "pillow" in done.stdout and "OSV-2026-1" in done.stdout


def test_a_database_that_cannot_be_reached_fails_it() -> None:
    done = audited(f"http://127.0.0.1:{free_port()}/v1/query")
    assert done.returncode != 0
    assert "No known vulnerabilities" not in done.stderr
