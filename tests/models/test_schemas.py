"""Bundles that earlier code wrote, one of each schema that must still be read.

`tests/serving/test_schemas.py` serves them. CONTRIBUTING.md says how to add the next.
"""

from pathlib import Path

import pytest

from models import bundle
from models.errors import BundleError
from models.manifest import Manifest
from models.store import Store
from testkit import schema_bundle, tiny_models

STORE = Store(schema_bundle.STORE)
TODAY: int = Manifest.model_fields["schema_version"].default


def test_a_bundle_of_todays_schema_and_one_of_the_schema_before_are_kept() -> None:
    needed = [f"schema-{n}" for n in (TODAY - 1, TODAY) if n > 0]
    assert STORE.names() == needed


@pytest.mark.parametrize("name", STORE.names())
def test_a_kept_bundle_is_read_and_each_of_its_files_is_whole(name: str) -> None:
    found = bundle.read(STORE.path(name))
    manifest = found.manifest
    assert (manifest.name, manifest.version, manifest.labels) == (name, 1, tiny_models.LABELS)
    assert [v.precision for v in manifest.variants] == ["fp32", "int8"]
    assert manifest.release is not None and manifest.release.worse_labels == ("blue",)
    assert manifest.provenance.recipe["arch"] == "resnet18"


def test_a_kept_bundle_is_never_written_again(tmp_path: Path) -> None:
    path = schema_bundle.write(tmp_path)
    kept = STORE.path(f"schema-{TODAY}")
    assert path.parts[-2:] == kept.parts[-2:]
    assert bundle.read(path).manifest.labels == bundle.read(kept).manifest.labels
    with pytest.raises(BundleError, match="a kept bundle is never changed"):
        schema_bundle.write(tmp_path)
