"""On paper: which part of a fleet bends first, up to a million images a second.

Each part has a load that grows with the images or the pods, and a limit: a documented one of
Kubernetes, a figure that is usual for one machine (which says so), or what operators would accept.
"""

from collections.abc import Callable
from dataclasses import dataclass

MILLION = 1_000_000
BODY_BYTES = 16 * 1024  # of the benchmark's JPEGs
SCRAPE_S, LOOK_S, UPDATE_S = 15, 10, 23  # a pod's update: 13 s to start, 10 s of minReadySeconds
BUNDLE_MB = 98 + 25  # ResNet-50 in fp32 and int8: `auto` reads both


@dataclass(frozen=True)
class Part:
    """`load`: by images a second and pods, in `unit`; `limit`: in the same; `then`: what helps."""

    name: str
    load: Callable[[float, float], float]
    unit: str
    limit: float
    why: str
    then: str


PARTS = (
    Part(
        "rolling update, one pod at a time",
        lambda _, pods: pods * UPDATE_S / 3600,
        "hours",
        1,
        "what one would wait",
        "`maxSurge: 25%`",
    ),
    Part(
        "shrinking by half, one pod a minute",
        lambda _, pods: pods / 2 / 60,
        "hours",
        6,
        "noon to evening",
        "a policy in percent",
    ),
    Part(
        "a release read from one file server",
        lambda _, pods: pods * BUNDLE_MB / 1250 / 60,
        "minutes at 10 Gbit/s",
        10,
        "the pods disagree so long",
        "object storage, or several servers",
    ),
    Part(
        "looks at the store, 35 file operations each with ten versions",
        lambda _, pods: pods * 35 / LOOK_S,
        "operations/s",
        20_000,
        "usual for a file server",
        "`LABRADOR_RELOAD_S=60`, `models prune`",
    ),
    Part(
        "Prometheus, 1,000 labels",
        lambda _, pods: pods * 2500,
        "series",
        10e6,
        "usual for 64 GB",
        "a Prometheus for each part of the fleet",
    ),
    Part(
        "Prometheus, 37 labels",
        lambda _, pods: pods * 574,
        "series",
        10e6,
        "usual for 64 GB",
        "as above",
    ),
    Part(
        "the adapter's query, which names every pod",
        lambda _, pods: pods * 31 / 2**20,
        "MiB of URL",
        1,
        "a Go server's limit for a request's head",
        "KEDA: one number for the fleet",
    ),
    Part(
        "ingress: bodies through a machine with 25 Gbit/s",
        lambda images, _: images * BODY_BYTES * 8 / 25e9,
        "machines",
        20,
        "what one would pay",
        "more machines; smaller pictures from the client",
    ),
    Part(
        "ingress: TLS and proxying, 10,000 requests/s a core (assumed)",
        lambda images, _: images / 10_000 / 32,
        "machines of 32 cores",
        20,
        "what one would pay",
        "more machines",
    ),
    Part(
        "API server: nodes, 15 pods on each of 32 cores",
        lambda _, pods: pods / 15,
        "nodes",
        5_000,
        "documented for Kubernetes",
        "several clusters behind one name",
    ),
    Part(
        "API server: endpoint slices sent to all nodes in an update of ten minutes",
        lambda _, pods: 2 * pods * 20e3 * pods / 15 / 600 / 1e9,
        "GB/s",
        1,
        "one machine's network",
        "several clusters; updates that take an hour",
    ),
)


def bends_at(part: Part, pod_images_s: float) -> float:
    """The images a second at which the part reaches its limit."""
    low, high = 0.0, 1e12
    for _ in range(100):
        middle = (low + high) / 2
        below = part.load(middle, middle / pod_images_s) < part.limit
        low, high = (middle, high) if below else (low, middle)
    return high


def print_table(pod_images_s: float) -> None:
    """pod_images_s: what a pod answers a second at the autoscaler's target."""
    pods = MILLION / pod_images_s
    print(f"\nA million images a second: {pods:,.0f} pods of two cores, {pod_images_s:g} each\n")
    print("| part | at a million | limit | because | bends at, images/s | then |")
    print("|---|---|---|---|---|---|")
    for part in sorted(PARTS, key=lambda part: bends_at(part, pod_images_s)):
        print(
            f"| {part.name} | {_figure(part.load(MILLION, pods))} {part.unit} |"
            f" {_figure(part.limit)} |"
            f" {part.why} | {_figure(bends_at(part, pod_images_s))} | {part.then} |"
        )


def _figure(value: float) -> str:
    """Two digits, the rest zeros."""
    rounded = float(f"{value:.1e}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"
