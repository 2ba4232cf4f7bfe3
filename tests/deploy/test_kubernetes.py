"""The manifests against the API's schemas, and against what the service really does."""

import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.container.generate import BENTO_UID_GID
from pydantic import ValidationError

from models.store import Store
from serving.settings import PREFIX, Settings
from testkit import tiny_models
from testkit.servers import ROOT, Server, serve

FOLDER = ROOT / "deploy" / "kubernetes"
BASE = {
    file.stem: yaml.safe_load(file.read_text())
    for file in FOLDER.glob("base/*.yaml")
    if file.stem != "kustomization"
}
DEPLOYMENT = BASE["deployment"]["spec"]
POD = DEPLOYMENT["template"]["spec"]
(CONTAINER,) = POD["containers"]
LABELS = DEPLOYMENT["template"]["metadata"]["labels"]
ROLLBACK = yaml.safe_load((FOLDER / "rollback" / "job.yaml").read_text())
MONITOR = yaml.safe_load((FOLDER / "monitoring" / "service-monitor.yaml").read_text())["spec"]
VARIANTS = ("cpu", "gpu")
# what its fields need, and the newest that the tool knows
VERSIONS = ("1.31", kubernetes_validate.latest_version().rpartition(".")[0])


def render(variant: str) -> list[dict[str, Any]]:
    """The objects as `kubectl apply -k` would send them."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is missing")
    command = ["kubectl", "kustomize", str(FOLDER / variant)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def environment(container: dict[str, Any]) -> dict[str, str]:
    """Setting -> value, as keyword arguments of Settings."""
    names = {entry["name"]: entry["value"] for entry in container["env"]}
    assert all(name.startswith(PREFIX) for name in names)
    return {name.removeprefix(PREFIX).lower(): value for name, value in names.items()}


def patched(variant: str) -> dict[str, Any]:
    """The container's part of a variant's patch."""
    patch = yaml.safe_load((FOLDER / variant / "device.yaml").read_text())
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    assert (patch["metadata"]["name"], container["name"]) == ("labrador", CONTAINER["name"])
    return dict(container)


def total_s(probe: dict[str, int]) -> int:
    return probe["periodSeconds"] * probe["failureThreshold"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service in the Deployment's environment, but for the place of the store."""
    folder = tmp_path_factory.mktemp("server")
    tiny_models.add(folder / "store", "colours", "single")
    settings: dict[str, Any] = environment(CONTAINER) | environment(patched("cpu"))
    settings |= {"model_store": str(folder / "store"), "drain_s": "0"}
    with serve(folder, **settings) as running:
        yield running


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", BASE)
def test_each_manifest_is_valid(name: str, version: str) -> None:
    assert kubernetes_validate.validate(BASE[name], version, strict=True) == version


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_is_valid_and_complete(variant: str) -> None:
    objects = render(variant)
    assert {o["kind"] for o in objects} == {manifest["kind"] for manifest in BASE.values()}
    for manifest in objects:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("place", [(), ("spec",), ("spec", "template", "spec", "containers", 0)])
def test_the_check_refuses_a_field_that_there_is_not(place: tuple[str | int, ...]) -> None:
    manifest = copy.deepcopy(BASE["deployment"])
    planted: Any = manifest
    for key in place:
        planted = planted[key]
    planted["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_setting_exists_and_has_a_valid_value(variant: str) -> None:
    settings = environment(CONTAINER) | environment(patched(variant))
    assert set(settings) <= set(Settings.model_fields)
    read = Settings.model_validate(settings)
    assert read.device == ("cuda" if variant == "gpu" else "cpu")
    with pytest.raises(ValidationError):
        Settings.model_validate(settings | {"device": variant + "s"})


def test_kubernetes_adds_no_variable_that_the_service_refuses() -> None:
    assert POD["enableServiceLinks"] is False


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_the_service_answers_its_probes_in_this_environment(server: Server, probe: str) -> None:
    ask = CONTAINER[probe]["httpGet"]
    assert ask["port"] == "http"
    answer = httpx.get(server.url + ask["path"], timeout=CONTAINER[probe]["timeoutSeconds"])
    assert answer.status_code == 200


def test_probes_leave_time_to_load_and_to_drain() -> None:
    settings = Settings.model_validate(environment(CONTAINER))
    stopping_s = settings.drain_s + settings.timeout_s
    assert POD["terminationGracePeriodSeconds"] >= stopping_s + 10
    startup, ready, live = (
        CONTAINER[f"{name}Probe"] for name in ("startup", "readiness", "liveness")
    )
    assert 300 <= total_s(startup) < DEPLOYMENT["progressDeadlineSeconds"]
    assert total_s(ready) < settings.drain_s  # also who looks at readiness only sees it in time
    assert total_s(live) >= 30
    assert live["httpGet"]["path"] == "/livez"  # it stays good while loading and draining


def test_an_update_takes_no_pod_away_before_another_is_ready() -> None:
    assert DEPLOYMENT["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert "replicas" not in DEPLOYMENT  # each apply would undo the autoscaler


def test_labels_selectors_and_names_agree() -> None:
    spread = [constraint["labelSelector"] for constraint in POD["topologySpreadConstraints"]]
    selectors = [DEPLOYMENT["selector"], BASE["disruption-budget"]["spec"]["selector"], *spread]
    selectors.append(BASE["network-policy"]["spec"]["podSelector"])
    assert [selector["matchLabels"] for selector in selectors] == [LABELS] * len(selectors)
    assert BASE["service"]["spec"]["selector"] == LABELS
    target = BASE["autoscaler"]["spec"]["scaleTargetRef"]
    assert {key: BASE["deployment"][key] for key in ("apiVersion", "kind")} == {
        key: target[key] for key in ("apiVersion", "kind")
    }
    assert target["name"] == BASE["deployment"]["metadata"]["name"]
    (models, _) = POD["volumes"]
    claim = models["persistentVolumeClaim"]["claimName"]
    assert claim == BASE["model-store"]["metadata"]["name"]


def test_every_port_is_the_one_that_bentoml_listens_on() -> None:
    (port,) = CONTAINER["ports"]
    assert port == {"name": "http", "containerPort": BentoMLContainer.http.port.get()}
    (service_port,) = BASE["service"]["spec"]["ports"]
    assert service_port["targetPort"] == "http"


def test_the_monitor_finds_the_service_and_names_its_job_as_the_alert_rules_do() -> None:
    service = BASE["service"]
    labels = service["metadata"]["labels"]
    assert MONITOR["selector"]["matchLabels"].items() <= labels.items()
    assert [e["port"] for e in MONITOR["endpoints"]] == [
        p["name"] for p in service["spec"]["ports"]
    ]
    rules = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    assert set(re.findall(r'job="([^"]*)"', rules)) == {labels[MONITOR["jobLabel"]]}


def test_traffic_comes_in_by_that_port_only_and_none_goes_out() -> None:
    policy = BASE["network-policy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": "http"}]}]


def test_the_pod_meets_the_restricted_security_standard() -> None:
    assert POD["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": BENTO_UID_GID,
        "runAsGroup": BENTO_UID_GID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["automountServiceAccountToken"] is False


def test_the_store_is_mounted_for_reading_where_the_service_looks() -> None:
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    store = mounts.pop(environment(CONTAINER)["model_store"])
    assert store["readOnly"] and volumes[store["name"]]["persistentVolumeClaim"]["readOnly"]
    (writable,) = mounts.values()
    assert writable["mountPath"] == "/tmp" and "emptyDir" in volumes[writable["name"]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_resources_are_limited_to_what_is_requested(variant: str) -> None:
    """The service counts its threads by the limit; a whole GPU or none."""
    resources = patched(variant)["resources"]
    gpus = resources["limits"].pop("nvidia.com/gpu", None)
    assert gpus == ("1" if variant == "gpu" else None)
    assert resources["limits"] == resources["requests"]
    assert resources["limits"]["cpu"].isdigit()


def test_the_rollback_job_is_valid_and_renders_with_the_image_of_the_variants() -> None:
    for version in VERSIONS:
        assert kubernetes_validate.validate(ROLLBACK, version, strict=True) == version
    (job,) = render("rollback")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    images = [yaml.safe_load((FOLDER / v / "kustomization.yaml").read_text()) for v in VARIANTS]
    assert container["image"] in [f"labrador:{image['images'][0]['newTag']}" for image in images]
    kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


def test_the_rollback_job_has_the_services_store_for_writing_and_none_of_its_traffic() -> None:
    pod = ROLLBACK["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (volume,), (mount,) = pod["volumes"], container["volumeMounts"]
    models = POD["volumes"][0]["persistentVolumeClaim"]
    assert volume["persistentVolumeClaim"] == {"claimName": models["claimName"]}
    store = environment(CONTAINER)["model_store"]
    assert mount == {"name": volume["name"], "mountPath": store}
    assert environment(container) == {"model_store": store}
    assert pod["securityContext"] == POD["securityContext"]
    assert container["securityContext"] == CONTAINER["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    labels = ROLLBACK["spec"]["template"]["metadata"]["labels"]
    selector = BASE["service"]["spec"]["selector"]
    assert not selector.items() <= labels.items()


def test_the_runbooks_commands_make_a_job_that_rolls_back(tmp_path: Path) -> None:
    """The sed of the runbook, on what kubectl renders; then the job's command, on a real store."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is missing")
    runbook = (ROOT / "deploy" / "RUNBOOK.md").read_text()
    (pipeline,) = re.findall(r"kubectl kustomize deploy/kubernetes/rollback .*(?=\\\n)", runbook)
    filled = pipeline.replace("/NAME/", "/colours/").replace("/VERSION/", "/1/")
    rendered = subprocess.run(filled, shell=True, cwd=ROOT, capture_output=True, text=True)
    (container,) = yaml.safe_load(rendered.stdout)["spec"]["template"]["spec"]["containers"]
    assert all(isinstance(word, str) for word in container["args"])  # the API refuses numbers

    for _ in range(2):
        tiny_models.add(tmp_path, "colours", "single")
    store = Store(tmp_path)
    store.release("colours", 2)

    def run(words: list[str]) -> int:
        command = [sys.executable, *words[1:]]
        variables = {**os.environ, "LABRADOR_MODEL_STORE": str(tmp_path)}
        return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True).returncode

    (as_it_is,) = ROLLBACK["spec"]["template"]["spec"]["containers"]
    assert run([*as_it_is["command"], *as_it_is["args"]]) == 2
    assert store.released("colours") == 2
    for _ in range(2):  # the cluster may start a job twice
        assert run([*container["command"], *container["args"]]) == 0
        assert store.released("colours") == 1


def test_the_rollback_job_is_not_part_of_a_variant_and_not_tried_again() -> None:
    for variant in VARIANTS:
        assert "rollback" not in (FOLDER / variant / "kustomization.yaml").read_text()
    assert "rollback" not in (FOLDER / "base" / "kustomization.yaml").read_text()
    assert ROLLBACK["spec"]["backoffLimit"] == 0
    assert ROLLBACK["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_the_autoscaler_follows_a_metric_of_the_service(server: Server) -> None:
    (metric,) = BASE["autoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    (endpoint,) = MONITOR["endpoints"]
    scraped = httpx.get(server.url + endpoint["path"]).text
    assert f"# TYPE {name} gauge" in scraped.splitlines()
    waiting = int(metric["pods"]["target"]["averageValue"])
    settings = Settings.model_validate(environment(CONTAINER))
    assert 0 < waiting <= settings.max_queue / 8  # pods must come before requests are refused


def test_the_adapters_rule_makes_that_metric(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is missing: Debian's package prometheus")
    (metric,) = BASE["autoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    values = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    assert rule["seriesQuery"].startswith(f"{name}{{")
    query = rule["metricsQuery"]
    for placeholder, text in {
        "<<.Series>>": name,
        "<<.LabelMatchers>>": 'namespace="a",pod=~"b|c"',
        "<<.GroupBy>>": "pod",
    }.items():
        assert placeholder in query
        query = query.replace(placeholder, text)

    def check(expression: str) -> int:
        file = tmp_path / "rules.yml"
        rules = [{"record": f"a:{number}", "expr": e} for number, e in enumerate([expression])]
        file.write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": rules}]}))
        return subprocess.run(["promtool", "check", "rules", file], capture_output=True).returncode

    assert check(query) == check(rule["seriesQuery"]) == 0
    assert check(query.replace("))", ")")) != 0
