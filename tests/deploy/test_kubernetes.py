"""The manifests against the API's schemas, and against what the service really does."""

import copy
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.container.generate import BENTO_UID_GID
from pydantic import ValidationError

from models.store import Store
from serving.settings import PREFIX, Settings
from testkit import tiny_models
from testkit.in_process import Inside, run_inside
from testkit.servers import ROOT, serve

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
SIDE_BY_SIDE = (*VARIANTS, "canary")
STORE = yaml.safe_load((FOLDER / "model-store.yaml").read_text())
ADAPTER = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())
NEWEST = "the newest that the tool knows"
VERSIONS = ("1.31", NEWEST)  # what its fields need


def check(manifest: dict[str, Any], version: str = NEWEST) -> None:
    """Fails for a manifest that this version of Kubernetes refuses."""
    import kubernetes_validate  # late: few tests need it

    if version == NEWEST:
        version = kubernetes_validate.latest_version().rpartition(".")[0]
    try:
        assert kubernetes_validate.validate(manifest, version, strict=True) == version
    except kubernetes_validate.ValidationError as error:
        pytest.fail(error.message)


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
    names = {entry["name"]: _value(entry, container) for entry in container["env"]}
    assert all(name.startswith(PREFIX) for name in names)
    return {name.removeprefix(PREFIX).lower(): value for name, value in names.items()}


def _value(entry: dict[str, Any], container: dict[str, Any]) -> str:
    """A variable's value; of one from the downward API what the container's resources make it."""
    if "value" in entry:
        return str(entry["value"])
    kind, _, resource = entry["valueFrom"]["resourceFieldRef"]["resource"].partition(".")
    assert kind == "requests"  # a limit may be left out
    return str(container.get("resources", {}).get(kind, {}).get(resource, "1"))


def rendered(variant: str, *components: str, folder: Path | None = None) -> dict[str, Any]:
    """Kind -> the only object of it. components: used as the README says."""
    if folder is None:
        objects = render(variant)
    else:
        folder.mkdir()
        text = {"resources": [variant], "components": list(components)}
        (folder / "kustomization.yaml").write_text(
            yaml.safe_dump(
                {
                    key: [os.path.relpath(FOLDER / name, folder) for name in names]
                    for key, names in text.items()
                }
            )
        )
        objects = render(str(folder))
    kinds = {manifest["kind"]: manifest for manifest in objects}
    assert len(kinds) == len(objects)
    return kinds


def container_of(objects: dict[str, Any]) -> dict[str, Any]:
    (container,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(container)


def patched(variant: str) -> dict[str, Any]:
    """The container's part of a variant's patch."""
    patch = yaml.safe_load((FOLDER / variant / "device.yaml").read_text())
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    assert (patch["metadata"]["name"], container["name"]) == ("labrador", CONTAINER["name"])
    return dict(container)


def total_s(probe: dict[str, int]) -> int:
    return probe["periodSeconds"] * probe["failureThreshold"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, metrics_folder: Path) -> Iterator[Inside]:
    """The service with the Deployment's settings, but for the place of the store."""
    folder = tmp_path_factory.mktemp("store")
    tiny_models.add(folder, "colours", "single")
    settings: dict[str, Any] = environment(CONTAINER) | environment(patched("cpu"))
    settings |= {"model_store": folder, "models": "colours"}
    with run_inside(metrics_folder, **settings) as running:
        yield running


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", BASE)
def test_each_manifest_is_valid(name: str, version: str) -> None:
    check(BASE[name], version)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_is_valid_and_complete(variant: str) -> None:
    objects = render(variant)
    assert {o["kind"] for o in objects} == {manifest["kind"] for manifest in BASE.values()}
    for manifest in objects:
        check(manifest)


@pytest.mark.parametrize("variant", ["one-gpu", "canary"])
def test_one_pod_without_an_autoscaler_is_valid(variant: str) -> None:
    objects = rendered(variant)
    assert objects.keys() == {manifest["kind"] for manifest in BASE.values()} - {
        "HorizontalPodAutoscaler"
    }
    for manifest in objects.values():
        check(manifest)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_claim_of_the_store_is_valid_and_outlives_every_variant(version: str) -> None:
    check(STORE, version)
    for variant in (*SIDE_BY_SIDE, "one-gpu"):
        objects = rendered(variant)
        assert STORE["kind"] not in objects
        (models, _) = objects["Deployment"]["spec"]["template"]["spec"]["volumes"]
        assert models["persistentVolumeClaim"]["claimName"] == STORE["metadata"]["name"]


def selectors(objects: dict[str, Any]) -> list[dict[str, str]]:
    """Every selector of pods."""
    deployment = objects["Deployment"]["spec"]
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    found = [each["labelSelector"]["matchLabels"] for each in spread]
    found += [deployment["selector"]["matchLabels"], objects["Service"]["spec"]["selector"]]
    found.append(objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"])
    found.append(objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"])
    return found


def test_variants_live_side_by_side() -> None:
    """No object replaces another, and none selects another's pods."""
    whole = {variant: rendered(variant) for variant in SIDE_BY_SIDE}
    names = [
        (kind, each["metadata"]["name"])
        for objects in whole.values()
        for kind, each in objects.items()
    ]
    assert len(set(names)) == len(names)
    for objects in whole.values():
        for selector in selectors(objects):
            chosen = [
                other
                for other in whole.values()
                if selector.items()
                <= other["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
            ]
            assert chosen == [objects]
    for variant in VARIANTS:
        target = whole[variant]["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
        assert target["name"] == whole[variant]["Deployment"]["metadata"]["name"]


def test_the_canary_serves_one_version_whether_released_or_not() -> None:
    objects = rendered("canary")
    (served,) = Settings.model_validate(environment(container_of(objects))).models
    name, _, version = served.partition(":")
    assert name and version.isdigit()
    assert objects["Deployment"]["spec"].get("replicas", 1) == 1


def test_where_there_is_one_gpu_an_update_needs_no_second() -> None:
    strategy = rendered("one-gpu")["Deployment"]["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_api_keys_come_from_a_secret_and_the_service_reads_them_there(tmp_path: Path) -> None:
    objects = rendered("cpu", "api-keys", folder=tmp_path / "own")
    check(objects["Deployment"])
    container = container_of(objects)
    file = Path(environment(container)["api_keys_file"])
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert len(mounts) == 3
    mount = mounts[str(file.parent)]
    volumes = {v["name"]: v for v in objects["Deployment"]["spec"]["template"]["spec"]["volumes"]}
    assert mount["readOnly"] and "subPath" not in mount  # with it a new key would never come
    secret = volumes[mount["name"]]["secret"]["secretName"]
    command = re.search(
        r"create secret generic (\S+) --from-file=(\S+)=FILE",
        (FOLDER / "api-keys" / "kustomization.yaml").read_text(),
    )
    assert command and command.groups() == (secret, file.name)


def test_with_ipv6_the_server_answers_both_families(tmp_path: Path) -> None:
    objects = rendered("cpu", "ipv6", folder=tmp_path / "own")
    assert objects["Service"]["spec"]["ipFamilyPolicy"] == "PreferDualStack"
    for manifest in objects.values():
        check(manifest)
    (host,) = (e["value"] for e in container_of(objects)["env"] if e["name"] == "BENTOML_HOST")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    tiny_models.add(tmp_path / "store", "colours", "single")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOST", host)
        with serve(tmp_path, model_store=tmp_path / "store") as running:
            for address in ("127.0.0.1", "[::1]"):
                url = f"http://{address}:{running.port}/readyz"
                assert httpx.get(url, trust_env=False).status_code == 200


@pytest.mark.parametrize("place", [(), ("spec",), ("spec", "template", "spec", "containers", 0)])
def test_the_check_refuses_a_field_that_there_is_not(place: tuple[str | int, ...]) -> None:
    manifest = copy.deepcopy(BASE["deployment"])
    planted: Any = manifest
    for key in place:
        planted = planted[key]
    planted["readinesProbe"] = {}
    with pytest.raises(pytest.fail.Exception, match="readinesProbe"):
        check(manifest)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_setting_exists_and_has_a_valid_value(variant: str) -> None:
    settings = environment(container_of(rendered(variant)))
    assert settings["cores"] == patched(variant)["resources"]["requests"]["cpu"]
    assert set(settings) <= set(Settings.model_fields)
    read = Settings.model_validate(settings)
    assert read.device == ("cuda" if variant == "gpu" else "cpu")
    with pytest.raises(ValidationError):
        Settings.model_validate(settings | {"device": variant + "s"})


def test_kubernetes_adds_no_variable_that_the_service_refuses() -> None:
    assert POD["enableServiceLinks"] is False


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_the_service_answers_its_probes_in_this_environment(server: Inside, probe: str) -> None:
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
    assert DEPLOYMENT["minReadySeconds"] >= 10
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
    (allowed,) = policy["ingress"]
    assert allowed["ports"] == [{"protocol": "TCP", "port": "http"}]
    same_namespace, others = allowed["from"]
    assert same_namespace == {"podSelector": {}}
    (named,) = others["namespaceSelector"]["matchExpressions"]
    assert (named["key"], named["operator"]) == ("kubernetes.io/metadata.name", "In")


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
        check(ROLLBACK, version)
    (job,) = render("rollback")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    images = [yaml.safe_load((FOLDER / v / "kustomization.yaml").read_text()) for v in VARIANTS]
    assert container["image"] in [f"labrador:{image['images'][0]['newTag']}" for image in images]
    check(job)


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


def test_the_autoscaler_grows_before_refusals_and_shrinks_slowly() -> None:
    spec = BASE["autoscaler"]["spec"]
    targets = {
        metric["pods"]["metric"]["name"]: metric["pods"]["target"]["averageValue"]
        for metric in spec["metrics"]
    }
    assert targets.keys() == {rule["name"]["as"] for rule in ADAPTER["rules"]["custom"]}
    for target in targets.values():  # of shares, in thousandths
        assert re.fullmatch(r"\d+m", target) and 0 < int(target[:-1]) < 1000
    assert int(targets["labrador_held_share"][:-1]) <= 1000 / 8
    down = spec["behavior"]["scaleDown"]
    pod, tenth = down["policies"]  # the one that takes more away
    assert pod == {"type": "Pods", "value": 1, "periodSeconds": 60}
    assert tenth == {"type": "Percent", "value": 10, "periodSeconds": 60}
    assert down["stabilizationWindowSeconds"] >= 300
    assert spec["behavior"].keys() == {"scaleDown"}  # up as fast as Kubernetes does


def _filled(rule: dict[str, Any]) -> tuple[str, str]:
    """The series and the query of an adapter's rule, as the adapter asks for two pods."""
    series = rule["seriesQuery"]
    query = rule["metricsQuery"]
    for placeholder, text in {
        "<<.Series>>": series.partition("{")[0],
        "<<.LabelMatchers>>": 'namespace="a",pod=~"b|c"',
        "<<.GroupBy>>": "pod",
    }.items():
        assert placeholder in query
        query = query.replace(placeholder, text)
    return series, query


def test_the_adapter_s_metrics_exist(server: Inside) -> None:
    (endpoint,) = MONITOR["endpoints"]
    scraped = set(re.findall(r"^labrador_\w+", httpx.get(server.url + endpoint["path"]).text, re.M))
    for rule in ADAPTER["rules"]["custom"]:
        for text in _filled(rule):
            assert set(re.findall(r"labrador_\w+", text)) <= scraped


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing: Debian's package prometheus"
)
def test_the_adapter_s_rules_make_each_pod_s_share_of_its_busiest_model(tmp_path: Path) -> None:
    """Pod b's model pets holds 64 of two workers' 512 images and runs half of the time of both."""

    def series(name: str, values: str, **labels: str) -> dict[str, str]:
        given = {"namespace": "a", "pod": "b", "instance": "1"} | labels
        inside = ",".join(f'{key}="{value}"' for key, value in given.items())
        return {"series": f"{name}{{{inside}}}", "values": values}

    expected = {"labrador_held_share": 0.125, "labrador_busy_share": 0.5}
    test = {
        "interval": "15s",
        "input_series": [
            series("labrador_held_images", "64x40", model="pets"),
            series("labrador_held_images_limit", "512x40", model="pets"),
            series("labrador_held_images", "1x40", model="voc"),
            series("labrador_held_images_limit", "512x40", model="voc"),
            series("labrador_stage_seconds_sum", "0+15x40", model="pets", stage="infer"),
            series("labrador_stage_seconds_sum", "0+1x40", model="voc", stage="infer"),
            series("labrador_stage_seconds_sum", "0+60x40", model="pets", stage="decode"),
            series("labrador_workers", "2x40"),
        ],
        "promql_expr_test": [
            {
                "expr": _filled(rule)[1],
                "eval_time": "5m",
                "exp_samples": [{"labels": '{pod="b"}', "value": expected[rule["name"]["as"]]}],
            }
            for rule in ADAPTER["rules"]["custom"]
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
