"""A bundle with every field of today's schema filled, to be kept in `tests/models/schemas`.

python -m testkit.schema_bundle    # refuses if there is one of this schema
"""

from pathlib import Path

from models.errors import BundleError
from models.manifest import Manifest, Metric, Release
from models.store import Store
from testkit import tiny_models
from testkit.servers import ROOT

STORE = ROOT / "tests" / "models" / "schemas"


def write(root: Path = STORE) -> Path:
    """Write `schema-N/1`, N being the schema that this code writes, and return its folder."""
    name = f"schema-{Manifest.model_fields['schema_version'].default}"
    store = Store(root)
    if store.versions(name):
        raise BundleError(f"{root / name} exists; a kept bundle is never changed")
    return store.add(name, lambda version: _content(name, version))


def _content(name: str, version: int) -> tuple[Manifest, dict[str, bytes]]:
    manifest, files = tiny_models.content(name, version, "multi", int8=tiny_models.network("multi"))
    release = Release(
        verdict="released: better by 2.00 points of 1 - mAP",
        replaced=1,
        images=900,
        margin=0.01,
        difference=Metric(value=-0.02, low=-0.03, high=-0.01),
        worse_labels=("blue",),
        allowed_labels=("blue",),
        forced=False,
    )
    provenance = manifest.provenance.model_copy(
        update={
            "git_commit": "0" * 40,
            "recipe": {"arch": "resnet18", "lr": "8e-3", "epochs": 5, "early_stop": None},
            "weights": "imagenet",
            "weights_sha256": "0" * 64,
            "libraries": {"numpy": "2"},
        }
    )
    return manifest.model_copy(update={"release": release, "provenance": provenance}), files


if __name__ == "__main__":
    print(f"wrote {write()}")
