"""Wrong labels, planted: how many `inspect --labels` finds, and what that is worth in training.

python -m benchmarks.labels FOLDER WORK

FOLDER as for `benchmarks.training`; WORK gets cleanlab's environment (pinned in
`benchmarks/peers/cleanlab.txt`), the lists, the runs and `labels.jsonl`, from which an interrupted
call resumes. In 5 and in 10 % of the images of Caltech-101 and VOC 2007 one label is replaced by
another, at random. Prints two tables:

- of as many suspects as there are wrong images, the share that is wrong; the area under the ROC
  curve of all images, by how sure their surest suspect is; the length of the whole list, and the
  share of the wrong images on it. cleanlab gets the same out-of-fold scores in the same run.
- the error, or 1 - mAP, on validation images whose labels are right, of a ResNet-18 trained at 96
  pixels on the labels as they were, with wrong ones, with the suspects left out, with every
  suggestion taken, and after someone had looked through the list and put right what is wrong.
"""

import csv
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.environment import PEERS, installed
from models.hardware import cpu_cores, processor
from models.manifest import Task
from training import run_folder
from training.data import corrections
from training.data.corrections import Correction
from training.data.prepare import Prepared, prepare
from training.data.record import Record
from training.data.targets import encode
from training.evaluation import evaluate
from training.inspection import confident_learning, out_of_fold
from training.inspection.suspects import corrections_of
from training.recipe import Recipe

SETS: dict[str, tuple[str, Task]] = {
    "Caltech-101": ("caltech101", "single"),
    "VOC 2007": ("voc2007/train.csv", "multi"),
}
SHARES = (0.1, 0.05)
SIZE_PX, TRAINED_PX, SEED = 128, 96, 1
CPU = torch.device("cpu")
LIKE_NEW, WRONG, LEFT_OUT, TAKEN, LOOKED = (
    "labels as they were",
    "with wrong labels",
    "suspects left out",
    "every suggestion taken",
    "wrong suspects put right",
)


@dataclass(frozen=True)
class RealSet:
    """One data set; its records have labels without spaces, as a CSV needs them."""

    images: Prepared
    records: list[Record]
    labels: list[str]
    task: Task
    features: NDArray[np.float32]


@cache
def real_set(folder: Path, name: str, work: Path) -> RealSet:
    path, task = SETS[name]
    recipe = recipe_of(folder, str(folder / path), task)
    images = prepare(recipe)
    records = [
        replace(record, labels=tuple(label.replace(" ", "_") for label in record.labels))
        for record in images.split.records
    ]
    file = work / f"features-{task}.npy"
    if not file.exists():
        began = time.perf_counter()
        root = images.dataset.root
        np.save(file, out_of_fold.features([root / r.file for r in records], recipe, CPU))
        print(f"features of {name}: {time.perf_counter() - began:.0f} s", flush=True)
    labels = sorted({label for record in records for label in record.labels})
    return RealSet(images, records, labels, task, np.load(file))


def recipe_of(folder: Path, data: str, task: Task) -> Recipe:
    weights = str(folder / "weights" / "resnet18-distilled.pth")
    return Recipe(data=data, task=task, weights=weights, image_size=SIZE_PX, device="cpu")


def planted(known: RealSet, share: float) -> list[Record]:
    """The records; in this share of them, one label is replaced by one that the image lacks."""
    random = np.random.default_rng(SEED)
    rows = random.choice(len(known.records), round(share * len(known.records)), replace=False)
    changed = list(known.records)
    for row in rows.tolist():
        own = known.records[row].labels
        gone = {own[random.integers(len(own))]} if own else set()
        new = random.choice([label for label in known.labels if label not in own])
        labels = tuple(sorted({*own, str(new)} - gone))
        changed[row] = replace(changed[row], labels=labels)
    return changed


def find(known: RealSet, share: float, work: Path) -> tuple[list[Correction], dict[str, Any]]:
    """The suspects among labels of which a share is wrong, and the figures of both programs."""
    records = planted(known, share)
    wrong = np.array([a.labels != b.labels for a, b in zip(records, known.records, strict=True)])
    targets = encode(records, known.labels)
    began = time.perf_counter()
    folds = out_of_fold.folds(records, SEED)
    scores = out_of_fold.scores(known.features, targets, known.task, folds, CPU)
    issues = confident_learning.find(scores, targets, known.task)
    seconds = time.perf_counter() - began
    suspects = list(dict.fromkeys(issue.row for issue in issues))
    sure = np.nan_to_num(confident_learning.doubts(scores, targets, known.task)).max(1)
    file = work / f"scores-{known.task}-{share}.npz"
    np.savez(file, scores=scores, targets=targets)
    command = [work / "cleanlab" / "bin" / "python", PEERS / "cleanlab_find.py", known.task, file]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    peer = json.loads(done.stdout)
    listed = corrections_of(issues, records, known.labels)
    order = np.argsort(-sure, kind="stable").tolist()
    return listed, {
        "wrong": int(wrong.sum()),
        "Labrador": {**_figures(wrong, order, suspects), "seconds": seconds},
        "cleanlab": {**_figures(wrong, peer["order"], peer["issues"]), "seconds": peer["seconds"]},
    }


def _figures(
    wrong: NDArray[np.bool_], order: Sequence[int], suspects: Sequence[int]
) -> dict[str, float]:
    """order: all images, the surest to be wrong first; suspects: those listed, in their order."""
    rank = np.empty(len(wrong))
    rank[list(order)] = np.arange(len(wrong))
    below = rank[~wrong][None] > rank[wrong][:, None]
    count = int(wrong.sum())
    return {
        "at_cut": float(wrong[list(suspects[:count])].sum() / count) if count else 0.0,
        "ranked_at_cut": float(wrong[list(order[:count])].mean()) if count else 0.0,
        "auc": float(below.mean()) if count else 0.0,
        "listed": len(suspects),
        "on_list": float(wrong[list(suspects)].sum() / count) if count else 0.0,
    }


def train(
    folder: Path, name: str, share: float, kind: str, listed: Sequence[Correction], work: Path
) -> dict[str, Any]:
    """Train on one version of the training images' labels, and measure on right ones."""
    known = real_set(folder, name, work)
    clean = {record.file: record for record in known.records}
    dirty = {record.file: record for record in planted(known, share)}
    rows = [(r if r.side == "valid" or kind == LIKE_NEW else dirty[r.file]) for r in known.records]
    out = work / f"{known.task}-{share}-{time.time_ns()}"
    out.mkdir()
    table = out / "labels.csv"
    with table.open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["fname", "labels", "is_valid"])
        writer.writerows([r.file, " ".join(r.labels), r.side == "valid"] for r in rows)
    mine = [c for c in listed if clean[c.file].side == "train"]
    if kind == LOOKED:
        mine = [right for c in mine if (right := _put_right(c, clean, dirty, known.task))]
    options: dict[str, object] = {
        "images": known.images.dataset.root,
        "task": known.task,
        "weights": folder / "weights" / "resnet18-distilled.pth",
        "image-size": TRAINED_PX,
        "freeze-epochs": 1,
        "epochs": 3,
        "seed": SEED,
        "out": out / "run",
    }
    if kind in (LEFT_OUT, TAKEN, LOOKED):
        corrections.write(out / "suspects.csv", list(dict.fromkeys(mine)))
        options["quarantine" if kind == LEFT_OUT else "correct"] = out / "suspects.csv"
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    command = [sys.executable, "-m", "training", "train", str(table), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    headline = evaluate.HEADLINE[known.task]
    metric = run_folder.read(out / "run").outcome.metrics[headline]
    ends = (metric.value, metric.low, metric.high)
    if known.task == "multi":
        ends = (1 - metric.value, 1 - metric.high, 1 - metric.low)
    return {"wrong": ends, "changed": len({c.file for c in mine}) if kind != WRONG else 0}


def _put_right(
    suspect: Correction, clean: dict[str, Record], dirty: dict[str, Record], task: Task
) -> Correction | None:
    """What someone who knows the right labels makes of a suspect; None if it is right as it is."""
    right, given = set(clean[suspect.file].labels), set(dirty[suspect.file].labels)
    if task == "single":
        return replace(suspect, suggested=min(right)) if right != given else None
    fits = suspect.given not in right if suspect.given else suspect.suggested in right
    return suspect if fits else None


def main(folder: Path, work: Path) -> None:
    print(f"{processor()}, {cpu_cores()} cores\n")
    work.mkdir(parents=True, exist_ok=True)
    installed(work, "cleanlab")
    found = {
        (name, share): find(real_set(folder, name, work), share, work)
        for name in SETS
        for share in SHARES
    }
    print(found_table({key: figures for key, (_, figures) in found.items()}), flush=True)
    log = work / "labels.jsonl"
    done = [json.loads(line) for line in log.open()] if log.exists() else []
    for share in SHARES:
        for name in SETS:
            for kind in (LIKE_NEW, WRONG, LEFT_OUT, TAKEN, LOOKED):
                wanted = [name, 0 if kind == LIKE_NEW else share, kind]
                if any(d["key"] == wanted for d in done):
                    continue
                result = train(folder, name, share, kind, found[name, share][0], work)
                done.append({"key": wanted, **result})
                with log.open("a") as text:
                    text.write(json.dumps(done[-1]) + "\n")
                print(done[-1], flush=True)
    print(trained_table(done))


def found_table(found: dict[tuple[str, float], dict[str, Any]]) -> str:
    lines = [
        "| | wrong | program | found at the cut | by rank alone | AUC | listed | of wrong | s |",
        "|---" * 9 + "|",
    ]
    for (name, share), figures in found.items():
        for program in ("Labrador", "cleanlab"):
            own = figures[program]
            lines.append(
                f"| {name}, {share:.0%} | {figures['wrong']} | {program} | {own['at_cut']:.1%}"
                f" | {own['ranked_at_cut']:.1%} | {own['auc']:.3f} | {own['listed']}"
                f" | {own['on_list']:.1%} | {own['seconds']:.0f} |"
            )
    return "\n".join(lines)


def trained_table(done: Sequence[dict[str, Any]]) -> str:
    cells = {tuple(d["key"]): d for d in done}
    lines = [
        "| | labels | error or 1 - mAP | 95 % interval | lost error won back |",
        "|---" * 5 + "|",
    ]
    for name in SETS:
        clean = cells.get((name, 0, LIKE_NEW))
        for share in sorted(SHARES):
            wrong = cells.get((name, share, WRONG))
            for kind in (LIKE_NEW, WRONG, LEFT_OUT, TAKEN, LOOKED):
                own = cells.get((name, 0 if kind == LIKE_NEW else share, kind))
                if own is None or clean is None or wrong is None:
                    continue
                value, low, high = own["wrong"]
                lost = wrong["wrong"][0] - clean["wrong"][0]
                back = (
                    "" if kind in (LIKE_NEW, WRONG) else f"{(wrong['wrong'][0] - value) / lost:.0%}"
                )
                interval = f"[{low:.3f}, {high:.3f}]"
                lines.append(
                    f"| {name}, {share:.0%} | {kind} | {value:.4f} | {interval} | {back} |"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
