"""The list of what is in a small image; `tests/e2e/test_container.py` reads that of a real one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testkit.servers import ROOT

STATUS = """Package: dpkg
Status: install ok installed
Maintainer: Dpkg Developers <debian-dpkg@lists.debian.org>
Architecture: amd64
Version: 1.21.22
Description: Debian package management system

Package: libc6
Status: install ok installed
Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>
Architecture: amd64
Source: glibc
Version: 2.36-9+deb12u14
Description: GNU C Library
"""
PACKAGES = "venv/lib/python3.11/site-packages"
# In a process of its own, whose jsonschema knows IRIs.
PROBLEM = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
print(JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read()))
"""
BASE = "docker.io/library/python"
DIGEST = "sha256:" + "5" * 64
IMAGE_ID = "1" * 64


def inspected(**labels: str) -> dict[str, Any]:
    """The part of what buildah prints that is used."""
    own = {"revision": "abc123", "base.name": f"{BASE}@{DIGEST}"} | labels
    config = {
        "Env": ["PATH=/venv/bin", "PYTHON_VERSION=3.11.14"],
        "Labels": {f"org.opencontainers.image.{name}": value for name, value in own.items()},
    }
    created = "2026-11-25T03:01:26Z"
    return {"FromImageID": IMAGE_ID, "Docker": {"created": created, "config": config}}


def install(folder: Path, name: str, version: str, *lines: str) -> Path:
    """A package as pip installs it; lines: more of its metadata."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    head = ("Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}")
    (info / "METADATA").write_text("\n".join((*head, *lines)) + "\n")
    (info / "RECORD").write_text(f"{info.name}/METADATA,,\n")
    return info


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text(STATUS)
    licence = "License-Expression: MIT-CMU"
    pillow = install(root / PACKAGES, "Pillow", "13.0.0", licence, "Requires-Dist: numpy>=2")
    (pillow / "sboms").mkdir()
    parts = [{"type": "library", "name": "libjpeg-turbo", "version": "3.1.2"}]
    parts.append({"type": "library", "name": "Pillow", "version": "13.0.0"})
    (pillow / "sboms/own.cdx.json").write_text(json.dumps({"components": parts}))
    (pillow / "RECORD").write_text(f"{pillow.name}/sboms/own.cdx.json,,\n")
    extra = 'Requires-Dist: pillow; extra == "images"'
    install(root / PACKAGES, "numpy", "2.4.6", extra, "Classifier: License :: OSI Approved :: BSD")
    install(root / PACKAGES / "numpy/_vendor", "numpy", "1.0")
    install(root / "usr/lib/python3/dist-packages", "pip", "23.0.1")  # a Debian package
    bundle = root / "bento/src/models/bundles/pets/3"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text("{}")
    return root


def listed(root: Path, image: dict[str, Any]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.sbom", str(root)],
        input=json.dumps(image),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_part_is_listed_once_and_the_list_is_valid(root: Path) -> None:
    text = listed(root, inspected())
    validate = [sys.executable, "-c", PROBLEM]
    done = subprocess.run(validate, input=text, capture_output=True, text=True)
    assert done.stdout == "None\n", done.stdout + done.stderr
    bill = json.loads(text)
    assert bill["metadata"]["component"]["version"] == "abc123"
    assert bill["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": IMAGE_ID}]
    components = {part["bom-ref"]: part for part in bill["components"]}
    purls = sorted(part["purl"].partition("?")[0] for part in bill["components"] if "purl" in part)
    assert purls == [
        "pkg:deb/debian/dpkg@1.21.22",  # the source, and what was built from it
        "pkg:deb/debian/dpkg@1.21.22",
        "pkg:deb/debian/glibc@2.36-9%2Bdeb12u14",
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14",
        "pkg:generic/python@3.11.14",
        f"pkg:oci/python@{DIGEST}",
        "pkg:pypi/numpy@1.0",
        "pkg:pypi/numpy@2.4.6",
        "pkg:pypi/pillow@13.0.0",
    ]
    assert components["base"]["purl"].endswith(f"?repository_url={BASE}")
    assert components["model/pets/3"]["type"] == "machine-learning-model"
    pillow = components[f"pkg:pypi/pillow@13.0.0#{PACKAGES}"]
    assert pillow["licenses"] == [{"license": {"id": "MIT-CMU"}}]
    assert [(part["name"], part["version"]) for part in pillow["components"]] == [
        ("libjpeg-turbo", "3.1.2")
    ]
    numpy = components[f"pkg:pypi/numpy@2.4.6#{PACKAGES}"]
    assert numpy["licenses"] == [{"license": {"name": "BSD"}}]
    needs = {each["ref"]: each.get("dependsOn", []) for each in bill["dependencies"]}
    assert numpy["bom-ref"] in needs[pillow["bom-ref"]]
    assert needs[numpy["bom-ref"]] == []  # an extra is no need


def test_the_same_image_makes_the_same_list_and_another_one_another(root: Path) -> None:
    first = listed(root, inspected())
    assert listed(root, inspected()) == first
    other = listed(root, inspected() | {"FromImageID": "2" * 64})
    assert json.loads(other)["serialNumber"] != json.loads(first)["serialNumber"]


def test_a_base_without_a_digest_is_named_as_it_is(root: Path) -> None:
    name = "localhost:5000/labrador-base:bookworm"
    bill = json.loads(listed(root, inspected(**{"base.name": name})))
    (base,) = (part for part in bill["components"] if part["bom-ref"] == "base")
    assert base == {"bom-ref": "base", "name": name, "type": "container"}
