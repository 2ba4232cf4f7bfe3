"""Lists all that is in an image, as CycloneDX 1.6 JSON.

    buildah inspect --type image IMAGE | python -m scripts.sbom ROOT > sbom.json

ROOT is where the image is mounted. Listed are the base, Debian's packages with their sources (by
debsbom), a Python that is not Debian's, the Python packages, what their wheels say was built into
them (PEP 770: for Pillow, libjpeg-turbo and libwebp), and models. The same image makes the same
list.
"""

import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DEBIAN_S = Path("usr/lib/python3")  # the Python packages in it are Debian packages
MODELS = "bento/src/models/bundles"
LABELS = "org.opencontainers.image."


def debian(root: Path, created: str) -> Bom:
    """Debian's packages, the source packages that they were built from, and who needs whom."""
    command = [str(Path(sys.executable).parent / "debsbom"), "generate", "--sbom-type=cdx"]
    command += [f"--root={root}", "--with-licenses", f"--timestamp={created}", "--out=-"]
    done = subprocess.run(command, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(done.returncode)  # it has said why
    bom = Bom.from_json(json.loads(done.stdout))  # type: ignore[attr-defined] # from a decorator
    assert isinstance(bom, Bom)
    return bom


def distributions(root: Path) -> Iterator[Distribution]:
    """The Python packages anywhere in the image, also inside another one; not Debian's."""
    for folder, folders, _ in os.walk(root):
        folders.sort()
        if Path(folder) == root / DEBIAN_S:
            folders.clear()
        for name in folders:
            if name.endswith(".dist-info"):
                yield PathDistribution(Path(folder, name))


def licenses(distribution: Distribution) -> list[License]:
    metadata = distribution.metadata
    said = (metadata.get_all("License-Expression") or metadata.get_all("License") or [""])[0]
    if said and "\n" not in said:  # otherwise it is the whole text
        return [LicenseFactory().make_from_string(said)]
    classifiers = metadata.get_all("Classifier") or []
    names = {each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License :: ")}
    return [LicenseFactory().make_with_name(name) for name in sorted(names)]


def built_in(distribution: Distribution) -> Iterator[Component]:
    """What the wheel's own lists name: libraries in C, crates."""
    for file in distribution.files or ():
        if file.parts[-2:-1] != ("sboms",) or file.suffix != ".json":
            continue
        for part in json.loads(file.read_text()).get("components", []):
            name, version, purl = part["name"], part.get("version"), part.get("purl")
            if (name, version) != (distribution.name, distribution.version):
                yield Component(
                    name=name,
                    version=version,
                    purl=PackageURL.from_string(purl) if purl else None,
                    bom_ref=f"{distribution.name}/{file.name}/{name}@{version}",
                )


def python_package(distribution: Distribution, root: Path) -> Component:
    folder = Path(str(distribution.locate_file(""))).relative_to(root)
    name, version = canonicalize_name(distribution.name), distribution.version
    purl = PackageURL("pypi", name=name, version=version)
    parts = {part.bom_ref.value: part for part in built_in(distribution)}
    return Component(
        name=name,
        version=version,
        purl=purl,
        bom_ref=f"{purl.to_string()}#{folder}",  # a version may be there twice
        licenses=licenses(distribution),
        components=parts.values(),
    )


def needed(distribution: Distribution) -> set[str]:
    """Names of the packages that it requires, leaving out those of extras."""
    found = [Requirement(line) for line in distribution.requires or ()]
    met = [each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]
    return {canonicalize_name(requirement.name) for requirement in met}


def base(reference: str) -> Component:
    """The image below; reference: its name, with a digest or a tag."""
    name, _, digest = reference.partition("@")
    place, _, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    qualifiers = {"repository_url": f"{place}/{last}".lstrip("/")} | ({"tag": tag} if tag else {})
    purl = PackageURL("oci", name=last, version=digest, qualifiers=qualifiers) if digest else None
    container = ComponentType.CONTAINER
    return Component(type=container, name=name, version=digest or None, purl=purl, bom_ref="base")


def models(root: Path) -> Iterator[Component]:
    for manifest in sorted((root / MODELS).glob("*/*/manifest.json")):
        name, version = manifest.parts[-3:-1]
        sha256 = hashlib.sha256(manifest.read_bytes()).hexdigest()  # it has those of its files
        yield Component(
            type=ComponentType.MACHINE_LEARNING_MODEL,
            name=name,
            version=version,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
            bom_ref=f"model/{name}/{version}",
        )


def bill_of_materials(image: dict[str, Any], root: Path) -> Bom:
    """image: what `buildah inspect --type image` prints."""
    config, digest = image["Docker"]["config"], image["FromImageID"]
    labels, env = config["Labels"], dict(entry.split("=", 1) for entry in config["Env"])
    bom = debian(root, image["Docker"]["created"])
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_OID, digest)
    system = bom.metadata.component
    assert system is not None
    whole = Component(
        type=ComponentType.CONTAINER,
        name="labrador",
        version=labels[LABELS + "revision"],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],  # the image's ID
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
        bom_ref="labrador",
    )
    bom.metadata.component = whole
    rest = [system, base(labels[LABELS + "base.name"]), *models(root)]
    if version := env.get("PYTHON_VERSION"):  # Docker's images have compiled one of their own
        purl = PackageURL("generic", name="python", version=version)
        cpe = f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*"
        rest.append(Component(name="python", version=version, purl=purl, cpe=cpe, bom_ref="python"))
    packages = [(found, python_package(found, root)) for found in distributions(root)]
    for found, package in packages:
        names = needed(found)
        bom.register_dependency(package, [other for _, other in packages if other.name in names])
    parts = [*rest, *(package for _, package in packages)]
    bom.components.update(parts)
    bom.register_dependency(whole, parts)
    return bom


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.stdin.isatty():
        raise SystemExit(__doc__)
    bom = bill_of_materials(json.load(sys.stdin), Path(sys.argv[1]).resolve())
    print(JsonV1Dot6(bom).output_as_string(indent=1))
