"""The schemas of KServe's objects, as far as the manifests of deploy/kserve go into them.

python -m testkit.kserve_schemas FOLDER    # with the files of KServe's config/crd/full

`kserve_schemas.json` keeps each object that a manifest has, with the names and types of all of its
fields, so a misspelt or unknown one is found; of fields that no manifest has, only the type. From
KServe (Apache-2.0, commit aaac4e2 of August 2026), whose whole schemas have two megabytes.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from testkit.servers import ROOT

FILE = Path(__file__).with_suffix(".json")
MANIFESTS = sorted((ROOT / "deploy" / "kserve").glob("*.yaml"))
_KEPT = ("type", "enum", "required", "pattern", "minimum", "maximum", "format", "anyOf")


def pruned(schema: dict[str, Any], value: Any) -> dict[str, Any]:
    """What a schema says of a value and of the names beside it."""
    kept = {key: schema[key] for key in _KEPT if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        kept = {"type": ["integer", "string"]}
    if isinstance(value, dict) and "properties" in schema:
        kept["properties"] = {
            name: pruned(own, value[name]) if name in value else {"type": own.get("type", "string")}
            for name, own in schema["properties"].items()
        }
        kept["additionalProperties"] = False
    elif isinstance(value, list) and "items" in schema:
        merged: dict[str, Any] = {}
        for item in value:
            merged = _merge(merged, item)
        kept["items"] = pruned(schema["items"], merged)
    elif isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = {
            key: schema["additionalProperties"][key]
            for key in _KEPT
            if key in schema["additionalProperties"]
        }
    return kept


def _merge(one: Any, other: Any) -> Any:
    """A value that has the fields of both."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one | {name: _merge(one.get(name, value), value) for name, value in other.items()}
    return other


def main(folder: Path) -> None:
    definitions = [yaml.safe_load(file.read_text()) for file in folder.glob("serving.*.yaml")]
    schemas: dict[str, Any] = {}
    for manifest in map(yaml.safe_load, (file.read_text() for file in MANIFESTS)):
        version = manifest["apiVersion"].partition("/")[2]
        (schema,) = (
            served["schema"]["openAPIV3Schema"]
            for definition in definitions
            if definition["spec"]["names"]["kind"] == manifest["kind"]
            for served in definition["spec"]["versions"]
            if served["name"] == version
        )
        whole = pruned(schema, manifest)
        whole["properties"]["metadata"] = {"type": "object"}  # any object's
        schemas[manifest["kind"]] = whole
    FILE.write_text(json.dumps(schemas, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
