"""Takes out of an image's configuration what names the container that it was built in.

    python -m scripts.image_config IMAGE

In Docker's format, the only one with a health check, buildah 1.28 writes that container's id and
hostname into the configuration, so two builds of the same files have two IDs. IMAGE then names the
image without them. Prints its ID: the sha256 of the configuration, which lists the layers.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def buildah(*words: str) -> str:
    done = subprocess.run(["buildah", *words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def without_container(config: bytes) -> bytes:
    """The configuration's JSON without the container's id and hostname."""
    content = json.loads(config)
    content.pop("container", None)
    for part in ("config", "container_config"):
        content.get(part, {})["Hostname"] = ""
    return json.dumps(content, separators=(",", ":")).encode()


def replace(image: str) -> str:
    """Makes the image's name that of the image without them; its ID."""
    found = json.loads(buildah("inspect", "--type", "image", image))
    config = without_container(found["Config"].encode())
    digest = hashlib.sha256(config).hexdigest()
    if digest == found["FromImageID"]:
        return digest
    manifest = json.loads(found["Manifest"])
    manifest["config"] |= {"size": len(config), "digest": f"sha256:{digest}"}
    with tempfile.TemporaryDirectory() as folder:
        # The layers are not copied: buildah takes the ones that it has, by their digests.
        Path(folder, "version").write_text("Directory Transport Version: 1.1\n")
        Path(folder, digest).write_bytes(config)
        Path(folder, "manifest.json").write_text(json.dumps(manifest))
        pulled = buildah("pull", "--quiet", f"dir:{folder}")
    if pulled != digest:
        raise SystemExit(f"error: {image} became {pulled}, not {digest}")
    buildah("tag", digest, image)
    buildah("rmi", found["FromImageID"])
    return digest


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"{__doc__}\nerror: give one image, not {sys.argv[1:]}")
    print(replace(sys.argv[1]))
