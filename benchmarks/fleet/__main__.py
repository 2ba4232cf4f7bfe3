"""How many pods a fleet should have, when, and what it sheds meanwhile: a simulation.

python -m benchmarks.fleet [SCENARIO…]    # day, step, flash, machine, limit, paper; or all

Prints a table for each scenario: a row for each rule by which the autoscaler may decide. Pods are
as fast, and start as fast, as measured (`benchmarks/README.md`); the rules are Kubernetes'.
"""

import sys
from dataclasses import dataclass

from benchmarks.fleet import paper
from benchmarks.fleet.autoscaler import Autoscaler, Direction, Policy
from benchmarks.fleet.loads import DAY_S, Load, day, flash, step
from benchmarks.fleet.pod import Speed
from benchmarks.fleet.simulation import Fleet, Outcome, Signal

# ResNet-50 at 224 pixels over HTTP on two cores of an EPYC: a lone request, and an image of a batch
# of 8 at the highest rate (76 and 24 answers a second). A batch takes a fixed part and one for each
# image between the two.
_ALONE_MS, _IN_EIGHT_MS = {"int8": 18.3, "fp32": 42.9}, {"int8": 1000 / 76, "fp32": 1000 / 24}
# 0.86 of the rate remained at ten times it: refusing 684 a second took 0.14 of the time
REFUSAL_S = 0.14 / 684
POD_IMAGES_S = 50  # a pod at busy 0.8: 400 images a second are answered by 8 pods
# Seconds until a new pod gets requests. The server was ready after 5.7 s; assumed are 3 s to place
# the pod and start its container, 2 s until the probe looks, and 2 s until the proxies know. A new
# machine, with the image to be pulled, takes 90 s more; so much is usual in clouds.
START_S, MACHINE_S = 12.7, 90.0

ONE_LESS = Direction(300, (Policy("Pods", 1, 60),))
A_TENTH_LESS = Direction(300, (Policy("Pods", 1, 60), Policy("Percent", 10, 60)))


@dataclass(frozen=True)
class Rule:
    """What decides, and how fast the fleet may shrink."""

    signals: tuple[Signal, ...]
    down: Direction = A_TENTH_LESS


def speed(precision: str) -> Speed:
    alone_s, in_eight_s = _ALONE_MS[precision] / 1000, 8 * _IN_EIGHT_MS[precision] / 1000
    image_s = (in_eight_s - alone_s) / 7
    return Speed(lambda images: alone_s + image_s * (images - 1), refusal_s=REFUSAL_S)


def busy(target: float, window_s: float = 120) -> Signal:
    return Signal("busy", target, window_s)


def held(target: float, window_s: float = 30) -> Signal:
    return Signal("held", target, window_s)


def demand(target: float, window_s: float = 60) -> Signal:
    return Signal("demand", target, window_s)


SHIPPED = "held 0.125, busy 0.8"  # deploy/kubernetes/base
WITH_KEDA = "held 0.5, demand 0.8"  # deploy/kubernetes/keda
RULES = {
    "busy 0.5": Rule((busy(0.5),)),
    "busy 0.7": Rule((busy(0.7),)),
    "busy 0.9": Rule((busy(0.9),)),
    "held 0.125": Rule((held(0.125),)),
    "held 0.125 of one minute, busy 0.7; one less a minute": Rule(
        (held(0.125, 60), busy(0.7)), ONE_LESS
    ),
    SHIPPED: Rule((held(0.125), busy(0.8))),
    "held 0.125, busy 0.9": Rule((held(0.125), busy(0.9))),
    "held 0.05, busy 0.8": Rule((held(0.05), busy(0.8))),
    "demand 0.8": Rule((demand(0.8),)),
    WITH_KEDA: Rule((Signal("all held", 0.5, 30), demand(0.8))),
}


@dataclass(frozen=True)
class Scenario:
    title: str
    load: Load
    duration_s: float
    precision: str = "int8"
    start_s: float = START_S
    maximum: int = 100


SCENARIOS = {
    "day": Scenario("A day, from 20 to 200 images a second", day, DAY_S),
    "step": Scenario("40 images a second, ten times that for 20 minutes", step, 2700),
    "flash": Scenario("40 images a second, a hundred times that for 5 minutes", flash, 1500),
    "machine": Scenario(
        "Ten times, each pod on a new machine", step, 2700, start_s=START_S + MACHINE_S
    ),
    "limit": Scenario("A hundred times, at most 8 pods", flash, 1500, maximum=8),
}


def simulated(scenario: Scenario, rule: Rule, minimum: int = 2) -> Outcome:
    autoscaler = Autoscaler(minimum, scenario.maximum, down=rule.down)
    fleet = Fleet(speed(scenario.precision), scenario.start_s, rule.signals, autoscaler)
    return fleet.run(scenario.load, scenario.duration_s)


def print_table(scenario: Scenario) -> None:
    print(f"\n{scenario.title}\n")
    print("| | shed | p50, ms | p99, ms | pods at most | pod-hours |")
    print("|---|---|---|---|---|---|")
    for name, rule in RULES.items():
        found = simulated(scenario, rule)
        print(
            f"| {name} | {found.shed:.2%} | {found.p50_s * 1000:,.0f} | {found.p99_s * 1000:,.0f}"
            f" | {max(found.pods)} | {found.pod_hours:.2f} |",
            flush=True,
        )


def main(names: list[str]) -> None:
    for name in names or [*SCENARIOS, "paper"]:
        if name == "paper":
            paper.print_table(POD_IMAGES_S)
        else:
            print_table(SCENARIOS[name])


if __name__ == "__main__":
    main(sys.argv[1:])
