"""The simulated fleet against queueing theory, Kubernetes' documented examples and Prometheus."""

import math
import random
import shutil
import subprocess
from array import array
from pathlib import Path

import pytest
import simpy
import yaml

from benchmarks.fleet import paper
from benchmarks.fleet.__main__ import RULES, SCENARIOS, SHIPPED, Rule, Scenario, simulated, speed
from benchmarks.fleet.autoscaler import (
    DOWN,
    Autoscaler,
    Direction,
    Policy,
    wanted_by_pods,
    wanted_by_total,
)
from benchmarks.fleet.metrics import SCRAPE_S, rate
from benchmarks.fleet.pod import Pod, Process, Speed
from benchmarks.fleet.simulation import Signal
from testkit.servers import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"


def run_pod(pod_speed: Speed, rate: float, images: int) -> tuple[Pod, "array[float]", float]:
    """The pod after Poisson arrivals, the latencies, and when it was over."""
    environment, latencies, draw = simpy.Environment(), array("d"), random.Random(0)
    pod = Pod(environment, pod_speed, latencies)

    def arrive() -> Process:
        for _ in range(images):
            yield environment.timeout(draw.expovariate(rate))
            pod.offer()

    environment.process(arrive())
    environment.run()
    return pod, latencies, environment.now


def exponential(mean_s: float) -> Speed:
    draw = random.Random(1)
    return Speed(lambda _: draw.expovariate(1 / mean_s), max_batch=1, places=math.inf)


def erlang_c(servers: int, load: float) -> float:
    """The probability of waiting in M/M/c; load: arrivals times service time."""
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(load**n / math.factorial(n) for n in range(servers)) + last)


def test_with_exponential_times_images_take_as_long_as_in_m_m_1() -> None:
    _, latencies, _ = run_pod(exponential(1.0), 0.6, 20_000)
    assert sum(latencies) / len(latencies) == pytest.approx(1 / (1 - 0.6), rel=0.06)


def test_with_a_constant_time_images_wait_as_long_as_in_m_d_1() -> None:
    pod, latencies, end_s = run_pod(Speed(lambda _: 1.0, max_batch=1, places=math.inf), 0.6, 20_000)
    waited_s = sum(latencies) / len(latencies) - 1
    assert waited_s == pytest.approx(0.6 / (2 * (1 - 0.6)), rel=0.06)
    assert pod.busy_s / end_s == pytest.approx(0.6, rel=0.03)


def test_with_several_servers_images_wait_as_erlang_s_formula_c_says() -> None:
    servers, load = 3, 2.1
    pod_speed = Speed(exponential(1.0).batch_s, max_batch=1, places=math.inf, servers=servers)
    _, latencies, _ = run_pod(pod_speed, load, 20_000)
    waited_s = sum(latencies) / len(latencies) - 1
    assert waited_s == pytest.approx(erlang_c(servers, load) / (servers - load), rel=0.08)


def test_a_full_pod_refuses_as_many_as_m_m_1_k() -> None:
    load, places = 1.5, 4
    pod_speed = Speed(exponential(1.0).batch_s, max_batch=1, places=places)
    pod, _, _ = run_pod(pod_speed, load, 20_000)
    refused = (1 - load) * load**places / (1 - load ** (places + 1))
    assert 1 - pod.answered / pod.offered == pytest.approx(refused, rel=0.03)
    assert pod.held == 0


def test_a_pod_is_as_fast_as_measured_alone_at_the_highest_rate_and_at_ten_times_it() -> None:
    _, latencies, _ = run_pod(speed("int8"), 0.1, 50)
    assert min(latencies) == pytest.approx(0.0183)
    for images_s, share in ((76, 1.0), (760, 0.86)):
        pod, _, end_s = run_pod(speed("int8"), images_s, images_s * 30)
        last = 256 if images_s > 76 else 0  # answered when no more come
        answered_s = (pod.answered - last) / (end_s - last / 76)
        assert answered_s == pytest.approx(76 * share, rel=0.03)


@pytest.mark.parametrize(
    ("values", "pods"),
    [
        ([0.2], 2),  # "if the current metric value is 200m, and the desired value is 100m"
        ([0.05] * 2, 1),  # "if the current value is instead 50m"
        ([0.109] * 4, 4),  # within the tolerance of 0.1
        ([0.112] * 4, 5),
        ([0.15] * 3, 5),  # rounded up
    ],
)
def test_the_ratio_to_the_target_is_the_documented_one(values: list[float], pods: int) -> None:
    assert wanted_by_pods(values, len(values), 0.1) == pods
    assert wanted_by_total(sum(values), len(values), 0.1) == pods


def test_a_pod_without_a_metric_is_idle_on_the_way_up_and_at_the_target_on_the_way_down() -> None:
    assert wanted_by_pods([0.4, 0.4], 4, 0.1) == 8  # 0.8 of four, not 0.4 each of two
    assert wanted_by_pods([0.15], 4, 0.1) == 4  # idle it would mean fewer: then neither
    assert wanted_by_pods([0.02, 0.02], 4, 0.1) == 3  # (0.04 + 2 * 0.1) / 0.1
    assert wanted_by_pods([], 3, 0.1) == 3


def changes(autoscaler: Autoscaler, pods: int, wanted: int, decisions: int) -> list[int]:
    found = []
    for number in range(decisions):
        pods = autoscaler.decide(number * 15.0, pods, [wanted])
        found.append(pods)
    return found


def test_it_grows_by_the_larger_of_four_pods_and_double_every_15_s() -> None:
    assert changes(Autoscaler(1, 100), 1, 90, 6) == [5, 10, 20, 40, 80, 90]


def test_it_grows_as_in_the_enhancement_proposal_s_example() -> None:
    """KEP-853, "scale up as fast as possible": 900 percent a minute are 1, 10, 100, 1000."""
    up = Direction(0, (Policy("Percent", 900, 60),))
    found = changes(Autoscaler(1, 5000, up=up), 1, 1000, 9)
    assert found == [10, 10, 10, 10, 100, 100, 100, 100, 1000]


def test_it_shrinks_as_in_the_documented_example() -> None:
    """80 pods, at most 10 percent or 4 a minute: 8, then 8 of 72; 4 below 40."""
    down = Direction(0, (Policy("Pods", 4, 60), Policy("Percent", 10, 60)))
    found = changes(Autoscaler(10, 100, down=down), 80, 10, 60)
    assert found[:5:4] == [72, 64]
    below = [n for n in found if n <= 40]
    assert {a - b for a, b in zip(below, below[1:], strict=False)} - {0, 4} <= {2}  # 12 to 10


def test_it_shrinks_to_the_most_that_it_advised_within_the_window() -> None:
    autoscaler = Autoscaler(1, 100, down=Direction(60, DOWN.policies))
    assert autoscaler.decide(0, 10, [9]) == 9
    assert autoscaler.decide(15, 9, [2]) == 9
    assert autoscaler.decide(59, 9, [3]) == 9
    assert autoscaler.decide(60, 9, [2]) == 3


def test_the_highest_need_counts_between_the_limits() -> None:
    autoscaler = Autoscaler(2, 8)
    assert autoscaler.decide(0, 4, [3, 7]) == 7
    assert autoscaler.decide(15, 7, [30]) == 8
    assert Autoscaler(2, 8).decide(0, 2, [1]) == 2


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing: Debian's package prometheus"
)
def test_rates_are_prometheus_own(tmp_path: Path) -> None:
    """Of a series that is old, begins in the window, begins above zero, and has ended."""
    series: dict[str, list[float | None]] = {
        "old": [3.0 * n * n for n in range(21)],
        "new": [None] * 16 + [0.0, 4.0, 9.0, 11.0, 30.0],
        "above": [None] * 15 + [100.0, 104.0, 109.0, 111.0, 130.0, 131.0],
        "ended": [2.0 * n for n in range(17)] + [None] * 4,
    }
    inputs, tests = [], []
    for name, values in series.items():
        written = " ".join("_" if value is None else f"{value:g}" for value in values)
        inputs.append({"series": name, "values": written})
        known = [(15.0 * n, v) for n, v in enumerate(values) if v is not None and 15 * n > 190]
        expression = f"abs(rate({name}[2m]) - {rate(known, 310.0, 120.0)}) < bool 1e-9"
        yes = {"labels": "{}", "value": 1}
        tests.append({"expr": expression, "eval_time": "5m10s", "exp_samples": [yes]})
    unit = {"interval": "15s", "input_series": inputs, "promql_expr_test": tests}
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"tests": [unit]}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def steady(images_s: float) -> Scenario:
    return Scenario("steady", lambda _: images_s, 420.0)


@pytest.mark.parametrize("signal", [Signal("busy", 0.7, 120), Signal("demand", 0.7, 120)])
def test_a_fleet_grows_until_its_share_is_near_the_target(signal: Signal) -> None:
    found = simulated(steady(150), Rule((signal,)))
    assert found.pods[0] == 2 < found.pods[-1]
    per_pod = 150 / found.pods[-1]
    assert 0.5 < per_pod * 0.0183 < 0.9  # batches of few images
    assert found.shed == 0


def test_a_fleet_that_may_not_grow_sheds_what_it_cannot_answer() -> None:
    scenario = Scenario("steady", lambda _: 400, 120.0, maximum=2)
    found = simulated(scenario, Rule((Signal("busy", 0.7, 120),)))
    capacity = 2 * 76 * (1 - (400 - 2 * 76) / 2 * 0.14 / 684)
    assert found.shed == pytest.approx(1 - capacity / 400, rel=0.05)
    assert set(found.pods) == {2}
    assert found.pod_hours == pytest.approx(2 * 120 / 3600, rel=0.15)
    assert found.p99_s == pytest.approx(256 / capacity * 2, rel=0.1)  # a full queue


def test_pods_that_start_later_shed_more() -> None:
    rule, ten_times = RULES[SHIPPED], SCENARIOS["step"].load
    soon, late = (
        simulated(Scenario("step", ten_times, 380.0, start_s=start_s), rule) for start_s in (5, 90)
    )
    assert 0 < soon.shed < late.shed / 2


def test_the_shipped_rule_is_that_of_the_manifests() -> None:
    spec = yaml.safe_load((KUBERNETES / "base" / "autoscaler.yaml").read_text())["spec"]
    written = {
        metric["pods"]["metric"]["name"]: int(metric["pods"]["target"]["averageValue"][:-1]) / 1000
        for metric in spec["metrics"]
    }
    rule = RULES[SHIPPED]
    assert {f"labrador_{s.kind}_share": s.target for s in rule.signals} == written
    down = spec["behavior"]["scaleDown"]
    assert rule.down == Direction(
        down["stabilizationWindowSeconds"],
        tuple(Policy(p["type"], p["value"], p["periodSeconds"]) for p in down["policies"]),
    )
    adapter = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())
    queries = {each["name"]["as"]: each["metricsQuery"] for each in adapter["rules"]["custom"]}
    windows_s = {30.0: "[30s]", 120.0: "[2m]"}
    for signal in rule.signals:
        assert windows_s[signal.window_s] in queries[f"labrador_{signal.kind}_share"]
    monitor = yaml.safe_load((KUBERNETES / "monitoring" / "service-monitor.yaml").read_text())
    assert [e["interval"] for e in monitor["spec"]["endpoints"]] == [f"{SCRAPE_S:g}s"]


def test_on_paper_a_part_bends_where_its_load_meets_its_limit() -> None:
    for part in paper.PARTS:
        images_s = paper.bends_at(part, 50)
        assert part.load(images_s, images_s / 50) == pytest.approx(part.limit)
