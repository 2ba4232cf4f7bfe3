"""Workers on one GPU: what one process that had the batches of all would gain, simulated.

python -m benchmarks.sharing

Clients with one request at a time, spread over the workers. A worker's event loop takes LOOP_S for
each answer and nothing else meanwhile; cores are never short. Then each worker has batches of its
own and waits its turn at the GPU, as now; or it takes its batch only when its turn has come; or one
engine has the batches of all, at no cost: what it gains here is the most that it can. A batch takes
a fixed time and one for each image, padded to a power of two; the network is a ResNet-50 in fp16
that runs 6,000 images a second in full batches.
"""

from collections.abc import Generator
from typing import Any, Literal, get_args

import simpy

LOOP_S = 0.00067  # measured by benchmarks.feeding
GPU_IMAGES_S, BATCH = 6_000, 32
FULL_S = BATCH / GPU_IMAGES_S
SECONDS, WARM_UP_S = 2.0, 0.5
Way = Literal["own batches", "own batches, taken in turn", "one engine"]
Process = Generator[simpy.Event, Any, None]


def batch_s(images: int, fixed: float) -> float:
    """fixed: the share of a full batch's time that does not depend on the images."""
    padded = min(BATCH, 1 << (images - 1).bit_length())
    return FULL_S * (fixed + (1 - fixed) * padded / BATCH)


def answers_per_s(workers: int, clients: int, fixed: float, way: Way) -> float:
    one_engine, in_turn = way == "one engine", way == "own batches, taken in turn"
    environment = simpy.Environment()
    gpu = simpy.Resource(environment)
    loops = [simpy.Resource(environment) for _ in range(workers)]
    queues = [simpy.Store(environment) for _ in range(1 if one_engine else workers)]
    answered = 0

    def client(worker: int) -> Process:
        nonlocal answered
        while True:
            with loops[worker].request() as turn:
                yield turn
                yield environment.timeout(LOOP_S)
            done = environment.event()
            yield queues[0 if one_engine else worker].put(done)
            yield done
            answered += environment.now > WARM_UP_S

    def batcher(queue: simpy.Store) -> Process:
        while True:
            batch = [(yield queue.get())]
            turn = gpu.request()
            if in_turn:
                yield turn
            while queue.items and len(batch) < BATCH:
                batch.append((yield queue.get()))
            with turn:
                yield turn
                yield environment.timeout(batch_s(len(batch), fixed))
            for done in batch:
                done.succeed()

    for number in range(clients):
        environment.process(client(number % workers))
    for queue in queues:
        environment.process(batcher(queue))
    environment.run(WARM_UP_S + SECONDS)
    return answered / SECONDS


def main() -> None:
    print(
        "| fixed share | workers | clients | answers/s, own batches | taken in turn | one engine |"
    )
    print("|---|---|---|---|---|---|")
    for fixed in (0.25, 1.0):
        for workers in (2, 4, 8):
            for clients in (32, 128, 512):
                own, in_turn, engine = (
                    answers_per_s(workers, clients, fixed, way) for way in get_args(Way)
                )
                gains = f"{in_turn / own - 1:+.0%} | {engine / own - 1:+.0%}"
                print(f"| {fixed} | {workers} | {clients} | {own:,.0f} | {gains} |", flush=True)


if __name__ == "__main__":
    main()
