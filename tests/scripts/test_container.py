"""`scripts/container` before it builds: which base it takes, and that it cleans up.

Root only, as the script; its storage of images is an empty one.
"""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testkit import http_stub
from testkit.servers import ROOT, STOP_S, free_port

if os.geteuid() != 0 or not shutil.which("podman") or not shutil.which("buildah"):
    pytest.skip("needs root, buildah and podman", allow_module_level=True)

STAND_IN = "localhost/labrador-base:bookworm"
# in place of Debian's, which would take a minute and the network: mounts something below its target
DEBOOTSTRAP = """#!/bin/bash
for target; do :; done
mkdir -p "$target/proc"
mount --bind "$PRECIOUS" "$target/proc"
echo "$target" >"$READY"
exec sleep 600
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment, with an empty storage of images and a registry that may speak HTTP."""
    storage = tmp_path / "storage.conf"
    places = f'graphroot="{tmp_path}/images"\nrunroot="{tmp_path}/run"'
    storage.write_text(f'[storage]\ndriver="vfs"\n{places}\n')
    registries = tmp_path / "registries.conf"
    registries.write_text('[[registry]]\nlocation="localhost"\ninsecure=true\n')
    (tmp_path / "scratch").mkdir()
    return os.environ | {
        "CONTAINERS_STORAGE_CONF": str(storage),
        "CONTAINERS_REGISTRIES_CONF": str(registries),
        "TMPDIR": str(tmp_path / "scratch"),
    }


def start(environment: dict[str, str], *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["scripts/container", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_an_unknown_word_is_refused_with_the_valid_ones(environment: dict[str, str]) -> None:
    process = start(environment, "gpu")
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors == ("error: unknown 'gpu'; valid: --base IMAGE, --stand-in, --twice, cpu, cuda\n")


def test_no_stand_in_takes_the_place_of_a_base_that_cannot_be_pulled(
    environment: dict[str, str],
) -> None:
    base = f"localhost:{free_port()}/python:3.11-slim"
    process = start(environment, "--base", base, "cpu")
    _, errors = process.communicate()
    assert process.returncode == 1
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert base in line and "--stand-in" in line
    assert output_of(environment, "podman", "images", "--quiet") == ""


def test_interrupted_it_unmounts_what_debootstrap_mounted_and_removes_only_its_own(
    environment: dict[str, str], tmp_path: Path
) -> None:
    precious, ready, programs = (tmp_path / name for name in ("precious", "ready", "programs"))
    precious.mkdir()
    (precious / "file").touch()
    os.mkfifo(ready)
    programs.mkdir()
    (programs / "debootstrap").write_text(DEBOOTSTRAP)
    (programs / "debootstrap").chmod(0o755)
    environment |= {"PRECIOUS": str(precious), "READY": str(ready)}
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    process = start(environment, "--stand-in", "cpu")
    target = Path(ready.read_text().strip())  # waits for it
    assert target.is_relative_to(environment["TMPDIR"])
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=STOP_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert (precious / "file").exists()
    assert list(Path(environment["TMPDIR"]).iterdir()) == []
    assert str(target) not in Path("/proc/self/mountinfo").read_text()
    assert output_of(environment, "podman", "images", "--quiet") == ""


def test_a_base_by_its_tag_is_built_on_by_its_digest(environment: dict[str, str]) -> None:
    with registry() as (place, digest):
        process = start(environment, "--base", f"{place}:3.11-slim", "cpu")
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        (used,) = re.findall(r"^base: (.*)", next(li for li in lines if li.startswith("base")))
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert used == f"{place}@{digest}"
    assert list(Path(environment["TMPDIR"]).iterdir()) == []


@contextmanager
def registry() -> Iterator[tuple[str, str]]:
    """A registry with one image: its name there without the tag, and its digest."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("file"))
    blobs: dict[str, bytes] = {}

    def put(content: bytes) -> dict[str, object]:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"digest": digest, "size": len(content)}

    kind = "application/vnd.docker."
    layers = [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": layers},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}distribution.manifest.v2+json",
        "config": put(json.dumps(config).encode())
        | {"mediaType": f"{kind}container.image.v1+json"},
        "layers": [
            put(gzip.compress(layer.getvalue()))
            | {"mediaType": f"{kind}image.rootfs.diff.tar.gzip"}
        ],
    }
    content = json.dumps(manifest).encode()
    digest = str(put(content)["digest"])

    class Handler(http_stub.Quiet):
        def do_GET(self) -> None:  # noqa: N802 the name is http.server's
            _, _, what = self.path.rpartition("/")
            body = content if what == "3.11-slim" else blobs.get(what, b"{}")
            is_manifest = "/manifests/" in self.path
            self.answer(body, str(manifest["mediaType"]) if is_manifest else "")

    with http_stub.answering(Handler) as port:
        yield f"localhost:{port}/python", digest
