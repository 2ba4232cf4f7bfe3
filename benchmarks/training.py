"""Labrador against fastai: same images, split, initial weights, epochs and threads; in turn.

python -m benchmarks.training FOLDER WORK [SEEDS]

FOLDER holds `caltech101/`, `voc2007/` and `weights/resnet18-distilled.pth`; WORK gets fastai's
environment (pinned in `benchmarks/peers/fastai.txt`), the runs and `training.jsonl`, from which an
interrupted call resumes. Each seed (three by default) is a pair: fastai, then Labrador. Prints the
README's table: medians of both, the ratio of each pair, and the goals.
"""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.environment import PEERS, installed
from models.hardware import processor
from models.manifest import Task
from training import run_folder
from training.data.prepare import prepare
from training.evaluation import evaluate, metrics
from training.evaluation.decisions import decide
from training.recipe import Recipe

SETS: dict[str, tuple[str, Task]] = {
    "Caltech-101": ("caltech101", "single"),
    "VOC 2007": ("voc2007/train.csv", "multi"),
}
FREEZE_EPOCHS, EPOCHS, SIZE_PX = 1, 3, 128


@dataclass(frozen=True)
class Result:
    """One training: seconds from the process's start to the end of each epoch, and the results.

    wrong: error, or 1 - mean average precision, after each epoch; low and high: the last one's
    95 % interval. images_per_s: of the epochs in which the whole network was trained.
    """

    program: str
    data: str
    seed: int
    seconds: list[float]
    wrong: list[float]
    low: float
    high: float
    images_per_s: list[float]


def table_of(folder: Path, name: str, work: Path) -> tuple[Path, Path]:
    """A CSV with the split that both use, and the folder of its images."""
    path, task = SETS[name]
    images = prepare(Recipe(data=str(folder / path), task=task))
    file = work / f"{Path(path).parts[0]}.csv"
    with file.open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["fname", "labels", "is_valid"])
        for record in images.split.records:
            labels = " ".join(label.replace(" ", "_") for label in record.labels)
            writer.writerow([record.file, labels, record.side == "valid"])
    return file, images.dataset.root


def fastai(folder: Path, name: str, work: Path, seed: int) -> Result:
    file, images = table_of(folder, name, work)
    weights = folder / "weights" / "resnet18-distilled.pth"
    scores = work / "fastai-scores.npz"
    options = [SETS[name][1], seed, FREEZE_EPOCHS, EPOCHS, SIZE_PX]
    command: list[object] = [
        work / "fastai" / "bin" / "python",
        PEERS / "fastai_train.py",
        file,
        images,
        weights,
    ]
    seconds, lines = _timed([*command, *options, scores])
    epochs = [json.loads(line) for line in lines]
    kept = np.load(scores)
    measured = [_wrong(SETS[name][1], s, kept["targets"]) for s in kept["scores"]]
    return _result("fastai", name, seed, seconds, measured, epochs)


def labrador(folder: Path, name: str, work: Path, seed: int) -> Result:
    file, images = table_of(folder, name, work)
    out = work / f"{file.stem}-{seed}-{time.time_ns()}"
    options: dict[str, object] = {
        "images": images,
        "task": SETS[name][1],
        "weights": folder / "weights" / "resnet18-distilled.pth",
        "image-size": SIZE_PX,
        "freeze-epochs": FREEZE_EPOCHS,
        "epochs": EPOCHS,
        "seed": seed,
        "out": out,
    }
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    command = [sys.executable, "-m", "training", "train", file, *words]
    seconds, _ = _timed(command, "phase ")
    epochs = [json.loads(line) for line in (out / run_folder.EPOCHS_FILE).read_text().splitlines()]
    headline = evaluate.HEADLINE[SETS[name][1]]
    last = run_folder.read(out).outcome.metrics[headline]
    ends = (last.value, last.low, last.high)
    if SETS[name][1] == "multi":
        ends = (1 - last.value, 1 - last.high, 1 - last.low)
    each = [e[headline] if headline == "error" else 1 - e[headline] for e in epochs]
    return _result("Labrador", name, seed, seconds, [(w, *ends[1:]) for w in each], epochs)


def _timed(command: Sequence[object], start: str = "{") -> tuple[list[float], list[str]]:
    """Run; returns the seconds from launch to each line beginning with `start`, and those lines."""
    began = time.perf_counter()
    threads = {"OMP_NUM_THREADS": str(os.cpu_count())}
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | threads,
    )
    seconds, lines = [], []
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            seconds.append(time.perf_counter() - began)
            lines.append(line)
    if process.wait():
        raise SystemExit(f"{command} failed")
    return seconds, lines


def _wrong(task: Task, scores: Any, targets: Any) -> tuple[float, float, float]:
    """Error, or 1 - mAP, and its 95 % interval."""
    predicted = decide(scores, None)
    measured = metrics.with_intervals(
        evaluate.task_metrics(task, scores, predicted, targets), len(scores)
    )
    found = measured[evaluate.HEADLINE[task]]
    if task == "single":
        return found.value, found.low, found.high
    return 1 - found.value, 1 - found.high, 1 - found.low


def _result(
    program: str,
    name: str,
    seed: int,
    seconds: list[float],
    measured: list[tuple[float, float, float]],
    epochs: list[dict[str, Any]],
) -> Result:
    speeds = [epoch["images_per_s"] for epoch in epochs if epoch["phase"] == "whole"]
    return Result(program, name, seed, seconds, [m[0] for m in measured], *measured[-1][1:], speeds)


def report(results: Sequence[Result]) -> str:
    lines = [
        "| | fastai | Labrador | Labrador / fastai, each seed | goal |",
        "|---|---|---|---|---|",
    ]
    for name in SETS:
        own = sorted((r for r in results if r.data == name), key=lambda r: r.seed)
        pairs = list(
            zip(
                (r for r in own if r.program == "fastai"),
                (r for r in own if r.program == "Labrador"),
                strict=False,
            )
        )
        if not pairs:
            continue
        reached = [_reached(peer, ours) for peer, ours in pairs]
        rows = [
            (
                "images/s",
                [(median(a.images_per_s), median(b.images_per_s)) for a, b in pairs],
                "≥ 2.0",
            ),
            ("seconds in total", [(a.seconds[-1], b.seconds[-1]) for a, b in pairs], ""),
            (
                "seconds to reach fastai's final metric",
                [(a.seconds[-1], s) for (a, _), s in zip(pairs, reached, strict=True)],
                "≤ 0.5",
            ),
            (
                "error" if SETS[name][1] == "single" else "1 − mAP",
                [(a.wrong[-1], b.wrong[-1]) for a, b in pairs],
                "≤ 0.9",
            ),
        ]
        for what, values, goal in rows:
            digits = 3 if max(values[0]) < 2 else 0
            peer, ours = (median(v[i] for v in values) for i in (0, 1))
            ratios = ", ".join(f"{b / a:.2f}" for a, b in values)
            lines.append(
                f"| {name}: {what} | {peer:.{digits}f} | {ours:.{digits}f} | {ratios} | {goal} |"
            )
        widths = [
            f"[{median(r.low for r in side):.3f}, {median(r.high for r in side):.3f}]"
            for side in zip(*pairs, strict=True)
        ]
        lines.append(f"| its 95 % interval | {widths[0]} | {widths[1]} | | |")
    return "\n".join(lines)


def _reached(peer: Result, ours: Result) -> float:
    """Seconds until our metric is as good as the peer's last; infinite if it never is."""
    pairs = zip(ours.seconds, ours.wrong, strict=True)
    return next((s for s, wrong in pairs if wrong <= peer.wrong[-1]), float("inf"))


def main(folder: Path, work: Path, seeds: int = 3) -> None:
    print(f"{processor()}\n")
    work.mkdir(parents=True, exist_ok=True)
    installed(work, "fastai")
    log = work / "training.jsonl"
    results = [Result(**json.loads(line)) for line in log.open()] if log.exists() else []
    for seed in range(1, seeds + 1):
        for name in SETS:
            for program in (fastai, labrador):
                title = "Labrador" if program is labrador else "fastai"
                if any((r.program, r.data, r.seed) == (title, name, seed) for r in results):
                    continue
                results.append(program(folder, name, work, seed))
                with log.open("a") as file:
                    file.write(json.dumps(asdict(results[-1])) + "\n")
                print(results[-1], flush=True)
    print(report(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
