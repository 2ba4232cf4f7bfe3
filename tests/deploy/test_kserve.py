"""KServe's objects against its schemas, and against what the service really does."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.http as triton
import yaml
from bentoml._internal.container.generate import BENTO_UID_GID

from serving.settings import PREFIX, Settings
from testkit import tiny_models
from testkit.in_process import Inside, run_inside
from testkit.json_schema import problem
from testkit.kserve_schemas import FILE, MANIFESTS
from testkit.servers import get

SCHEMAS = json.loads(FILE.read_text())
OBJECTS: dict[str, dict[str, Any]] = {
    value["kind"]: value for value in (yaml.safe_load(file.read_text()) for file in MANIFESTS)
}
RUNTIME = OBJECTS["ServingRuntime"]
SERVICE = OBJECTS["InferenceService"]
(CONTAINER,) = RUNTIME["spec"]["containers"]
MODEL = SERVICE["spec"]["predictor"]["model"]
POD = yaml.safe_load(
    (MANIFESTS[0].parents[1] / "kubernetes" / "base" / "deployment.yaml").read_text()
)["spec"]["template"]["spec"]


def _settings(entries: list[dict[str, str]]) -> dict[str, str]:
    return {entry["name"].removeprefix(PREFIX).lower(): entry["value"] for entry in entries}


@pytest.fixture
def server(tmp_path: Path, metrics_folder: Path) -> Iterator[Inside]:
    """The service with KServe's settings, but for the place of the store."""
    tiny_models.add(tmp_path, SERVICE["metadata"]["name"], "single")
    settings: dict[str, Any] = _settings(CONTAINER["env"]) | _settings(MODEL["env"])
    with run_inside(metrics_folder, **settings | {"model_store": tmp_path}) as running:
        yield running


@pytest.mark.parametrize("kind", ["ServingRuntime", "InferenceService"])
def test_the_objects_are_as_kserve_s_schemas_say(kind: str) -> None:
    assert problem(OBJECTS[kind], SCHEMAS[kind]) is None


def test_the_schemas_find_a_misspelt_field_and_a_wrong_type() -> None:
    for kind, path, value in (
        ("ServingRuntime", ("containers", 0, "readinesProbe"), {}),
        ("ServingRuntime", ("supportedModelFormats", 0, "version"), 1),
        ("InferenceService", ("predictor", "model", "storageURI"), "pvc://x"),
        ("InferenceService", ("predictor", "minReplicas"), "2"),
    ):
        wrong = copy.deepcopy(OBJECTS[kind])
        place: Any = wrong["spec"]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        assert problem(wrong, SCHEMAS[kind])


def test_the_service_takes_the_runtime_and_names_its_format_and_protocol() -> None:
    assert MODEL["runtime"] == RUNTIME["metadata"]["name"]
    (form,) = RUNTIME["spec"]["supportedModelFormats"]
    assert MODEL["modelFormat"].items() <= form.items()
    assert [MODEL["protocolVersion"]] == RUNTIME["spec"]["protocolVersions"]


def test_the_settings_exist_and_the_store_is_where_kserve_puts_it() -> None:
    settings = _settings(CONTAINER["env"]) | _settings(MODEL["env"])
    assert settings.keys() <= Settings.model_fields.keys()
    assert settings["model_store"] == "/mnt/models"
    assert SERVICE["spec"]["predictor"]["enableServiceLinks"] is False


def test_the_container_is_as_guarded_as_without_kserve() -> None:
    (own,) = POD["containers"]
    guarded = CONTAINER["securityContext"]
    assert own["securityContext"].items() <= guarded.items()
    assert guarded["runAsUser"] == BENTO_UID_GID
    assert CONTAINER["name"] == "kserve-container"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        ours, theirs = ({**c[probe], "httpGet": None} for c in (own, CONTAINER))
        assert ours == theirs
    grace_s = SERVICE["spec"]["predictor"]["terminationGracePeriodSeconds"]
    assert grace_s == POD["terminationGracePeriodSeconds"]


def test_the_probes_and_the_metrics_answer_and_a_client_finds_the_model_by_the_service_s_name(
    server: Inside,
) -> None:
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert get(server.url + CONTAINER[probe]["httpGet"]["path"]).status_code == 200
    assert get(server.url + RUNTIME["spec"]["annotations"]["prometheus.kserve.io/path"]).text
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    assert client.is_model_ready(SERVICE["metadata"]["name"])
    client.close()
