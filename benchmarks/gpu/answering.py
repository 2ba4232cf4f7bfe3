"""The bundle on the GPU: its gates, ONNX Runtime alone, the service, and a swap under load."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks import servers, swap
from benchmarks.gpu import card
from benchmarks.gpu.plan import Plan, Values
from benchmarks.serving import drive
from models import bundle, golden
from models.bundle import Bundle
from models.errors import BundleError
from models.manifest import GOLDEN_SCORES_FILE, Precision, Variant
from models.store import Store
from serving.bench import Load
from serving.forms import open_proved
from serving.session import Place
from serving.settings import Settings
from testkit.servers import serve
from training.evaluation import onnx_session


def network_of(plan: Plan, precision: Precision) -> tuple[Bundle, Variant]:
    """The bundle, and its variant in this precision. Raises BundleError."""
    found = bundle.read(Store(plan.store).path("bench"))
    variants = {variant.precision: variant for variant in found.manifest.variants}
    if precision not in variants:
        raise BundleError(f"the bundle has no {precision}; it has {', '.join(variants)}")
    return found, variants[precision]


def golden_images(found: Bundle) -> NDArray[np.uint8]:
    """uint8 `[N, S, S, 3]`."""
    names = (name for name in found.files if name.startswith("golden/"))
    files = {name: found.files[name] for name in names if name != GOLDEN_SCORES_FILE}
    return golden.inputs(files, found.manifest.preprocess)


def session_alone(plan: Plan, precision: Precision) -> Values:
    """The service's own session: its gate, its scores beside fp32 on the CPU, and its speed."""
    found, _ = network_of(plan, precision)
    settings = Settings(device=plan.device, precision=precision, model_store=plan.store)
    before_mb, began = card.memory_mb(plan), time.perf_counter()
    session = open_proved(found, settings, Place(threads=2, worker=0))
    opened_s = time.perf_counter() - began
    images = golden_images(found)
    exact = onnx_session.runner(found.model, found.manifest.tensors)(images)
    values: Values = {
        "provider": session.provider,
        "opened and proved in s": opened_s,
        "largest difference": float(np.abs(session.run(images) - exact).max()),
        "GPU memory MB": card.memory_mb(plan) - before_mb,
    }
    for batch in plan.batches:
        pixels = np.resize(images, (batch, *images.shape[1:]))
        values[f"images/s at {batch}"] = batch / per_run_s(plan, session.run, pixels)
    return values


def per_run_s(plan: Plan, run: golden.Runner, images: NDArray[np.uint8]) -> float:
    """Seconds that one run takes, on average over a quarter of a load's time."""
    run(images)
    began, runs = time.perf_counter(), 0
    while runs < 2 or time.perf_counter() - began < plan.seconds / 4:
        run(images)
        runs += 1
    return (time.perf_counter() - began) / runs


def service(plan: Plan, precision: Precision, workers: int) -> Values:
    """The real server: its highest rate, a lone request, and the tail at 80 % of that rate."""
    bodies = servers.images_of(plan.images)
    extra = {
        "LABRADOR_DEVICE": plan.device,
        "LABRADOR_PRECISION": precision,
        "BENTOML_CONFIG_OPTIONS": f"services.labrador.workers={workers}",
    }
    before_mb = card.memory_mb(plan)
    spawn = multiprocessing.get_context("spawn")  # a fork would have this process's threads
    with (
        servers.running(servers.LABRADOR, plan.work, Store(plan.store), bodies, extra) as at,
        ProcessPoolExecutor(plan.client_processes, spawn) as pool,
    ):
        clients = max(1, plan.clients // plan.client_processes)
        load(plan, pool, at.url, bodies, clients=clients)  # warms up
        alone = drive(servers.LABRADOR, at.url, bodies, plan.seconds / 2, clients=1)
        cpu_s = at.cpu_s()
        highest = load(plan, pool, at.url, bodies, clients=clients)
        cpu_s = at.cpu_s() - cpu_s
        rate = len(highest.times) / highest.wall_s
        poisson = load(plan, pool, at.url, bodies, rate=0.8 * rate / plan.client_processes)
        codes = (alone.codes | highest.codes | poisson.codes).keys() - {"200"}
        return {
            "answers/s": rate,
            "CPU ms per answer": 1000 * cpu_s / len(highest.times),
            "alone ms": 1000 * median(alone.times),
            "p99 ms at 80 %": 1000 * float(np.quantile(poisson.times, 0.99)),
            "starts in s": at.start_s,
            "MB": at.memory_mb(),
            "GPU memory MB": card.memory_mb(plan) - before_mb,
            "cores of the clients": highest.client_cpu_s / highest.wall_s,
            "other answers": ", ".join(sorted(codes)) or "none",
        }


def load(
    plan: Plan,
    pool: ProcessPoolExecutor,
    url: str,
    bodies: Sequence[bytes],
    clients: int = 0,
    rate: float = 0,
) -> Load:
    """One load by several processes, each with this many clients or at this rate."""
    share = (servers.LABRADOR, url, bodies, plan.seconds, clients, rate)
    jobs = [pool.submit(drive, *share) for _ in range(plan.client_processes)]
    whole = Load("all")
    for part in (job.result() for job in jobs):
        whole.times += part.times
        whole.codes += part.codes
        whole.client_cpu_s += part.client_cpu_s
        whole.wall_s = max(whole.wall_s, part.wall_s)
    return whole


def swaps(plan: Plan) -> Values:
    """Versions of a tiny network swapped under load; RuntimeError if an answer is lost or mixed."""
    folder = plan.work / f"swap-{time.time_ns()}"
    folder.mkdir()
    before_mb = card.memory_mb(plan)
    store = swap.fill(folder / "store")
    with serve(folder, model_store=store.root, reload_s=0.02, device=plan.device) as server:
        tally = swap.measure(server.url, store, plan.swaps)
        used_mb = card.memory_mb(plan) - before_mb
    if tally.failures or tally.mixed:
        raise RuntimeError(
            f"{len(tally.failures)} failures, {len(tally.mixed)} answers of another version in"
            f" {tally.swaps} swaps: {tally.failures[:1]}"
        )
    return {"swaps": tally.swaps, "answers": len(tally.versions), "GPU memory MB": used_mb}
