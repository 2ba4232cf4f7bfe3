"""Images of anything else: how many of them are found, by novelty and by what it is chosen over.

python -m benchmarks.unknown FOLDER WORK

FOLDER as for `benchmarks.training`; WORK gets the lists, the drawn images, the runs, and their
features, from which an interrupted call resumes. Trains a ResNet-18 at 96 pixels on at most 2,000
images of each set, and shows it images of the others. Prints three tables:

- the area under the ROC curve of strangers against validation images, and the share of strangers
  found where 5 % of the validation images are called unknown as well: by 1 - the highest score
  (Hendrycks and Gimpel, 2017), energy (Liu et al., 2020; multi-label: Wang et al., 2021), the tenth
  nearest of the training images' normalised features (Sun et al., 2022), Mahalanobis distance on
  features as they are (Lee et al., 2018) and normalised (Müller and Hein, 2025), and what is
  exported, by the number of directions that its covariance keeps and of training images.
- by the p-values, at alpha 0.01 and 0.05: the share of validation images called unknown, each by
  the others, and the share of strangers; and, of class folders trained with `--task multi`, the
  share of both that gets no tag.
- the sets of labels: how often they have the right label, and how many labels; beside them
  MAPIE's adaptive sets, as they come.
"""

import csv
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mapie.classification import SplitConformalClassifier
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from models import conformal, coverage
from models.conformal import HeldOut
from models.hardware import cpu_cores, processor
from models.manifest import Task
from scripts import drawings
from testkit.given_scores import GivenScores
from training import run_folder
from training.data import decoding
from training.data.datasets import read
from training.data.record import Record
from training.data.targets import encode
from training.evaluation import calibration
from training.evaluation.novelty import chosen
from training.network import novelty
from training.network.inference import features_and_logits_of
from training.run_folder import Run

CPU = torch.device("cpu")
SIZE_PX, SEED, TRAINED, STRANGERS = 96, 1, 2000, 600
EPOCHS = {"Caltech-101": 1, "VOC 2007": 1, "Oxford Pets": 4}
PATHS: dict[str, str] = {
    "Caltech-101": "caltech101",
    "VOC 2007": "voc2007/train.csv",
    "Oxford Pets": "pets",
}
RUNS: dict[str, tuple[str, Task]] = {
    "Caltech-101": ("Caltech-101", "single"),
    "Caltech-101, multi": ("Caltech-101", "multi"),
    "VOC 2007": ("VOC 2007", "multi"),
    "Oxford Pets": ("Oxford Pets", "single"),
}
DRAWN = "drawings"
Features = NDArray[np.float32]
Method = Callable[["Seen"], NDArray[np.float32]]
"""The strangeness `[N]` of images."""


@dataclass(frozen=True)
class Seen:
    """What a network gave for images: pooled features `[N, F]` and logits `[N, C]`."""

    features: Features
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Known:
    """A finished run, and what it gave for its own images and for others."""

    task: Task
    run: Run
    records: Sequence[Record]
    train: Seen
    train_targets: NDArray[np.bool_]
    valid: Seen
    valid_targets: NDArray[np.bool_]
    strangers: Mapping[str, Seen]


def listed(folder: Path, name: str, work: Path) -> Path:
    """A CSV of the set, with at most `TRAINED` training images."""
    table = work / f"{name.lower().replace(' ', '-')}.csv"
    if table.exists():
        return table
    dataset = read(str(folder / PATHS[name]))
    order = np.random.default_rng(SEED).permutation(len(dataset.records)).tolist()
    records = [dataset.records[row] for row in order]
    if not any(record.side for record in records):
        share = len(records) // 5
        sides = ["valid"] * share + ["train"] * (len(records) - share)
    else:
        sides = [str(record.side) for record in records]
    left = TRAINED
    with table.open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["fname", "labels", "is_valid"])
        for record, side in zip(records, sides, strict=True):
            if side == "train":
                left -= 1
            if side == "valid" or left >= 0:
                labels = " ".join(label.replace(" ", "_") for label in record.labels)
                writer.writerow([dataset.root / record.file, labels, side == "valid"])
    return table


def trained(folder: Path, name: str, work: Path) -> Run:
    data, task = RUNS[name]
    out = work / f"{data.lower().replace(' ', '-')}-{task}"
    if not (out / run_folder.RUN_FILE).exists():
        options: dict[str, object] = {
            "images": "/",
            "task": task,
            "weights": folder / "weights" / "resnet18-distilled.pth",
            "image-size": SIZE_PX,
            "freeze-epochs": 1,
            "epochs": EPOCHS[data],
            "seed": SEED,
            "device": "cpu",
            "out": out,
        }
        words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
        table = listed(folder, data, work)
        subprocess.run([sys.executable, "-m", "training", "train", str(table), *words], check=True)
    return run_folder.read(out)


def seen(run: Run, files: Sequence[Path], file: Path) -> Seen:
    """What the run's network gives for the images, kept in `file`."""
    if not file.exists():
        images = decoding.served(files, run.outcome.preprocess)
        features, logits = features_and_logits_of(run.network(), images, CPU)
        np.savez(file, features=features, logits=logits)
    kept = np.load(file)
    return Seen(kept["features"], kept["logits"])


def strangers_of(folder: Path, data: str, work: Path) -> dict[str, list[Path]]:
    """The files of the other sets: at most `STRANGERS` of each."""
    files: dict[str, list[Path]] = {}
    for name, path in PATHS.items():
        if name != data:
            dataset = read(str(folder / path))
            order = np.random.default_rng(SEED).permutation(len(dataset.records))[:STRANGERS]
            files[name] = [dataset.root / dataset.records[row].file for row in order.tolist()]
    drawn = work / DRAWN
    if not drawn.exists():
        drawings.single_label(drawn, STRANGERS // len(drawings.SHAPES), SEED)
    files[DRAWN] = sorted(drawn.rglob("*.jpg"))[:STRANGERS]
    return files


def known(folder: Path, name: str, work: Path) -> Known:
    run = trained(folder, name, work)
    root, labels, task = Path(run.outcome.root), run.outcome.labels, run.outcome.task
    split = run.split
    kept = partial(seen, run)
    train = kept([root / record.file for record in split.train], run.path / "train.npz")
    valid = kept([root / record.file for record in split.valid], run.path / "valid.npz")
    others = {
        other: kept(files, run.path / f"{other.lower().replace(' ', '-')}.npz")
        for other, files in strangers_of(folder, RUNS[name][0], work).items()
    }
    targets = [encode(side, labels) for side in (split.train, split.valid)]
    return Known(task, run, split.train, train, targets[0], valid, targets[1], others)


def normalised(features: Features) -> NDArray[np.float64]:
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-6))


def methods(of: Known) -> dict[str, Method]:
    """Each way to measure how strange an image is, by name."""

    def scores(images: Seen) -> NDArray[np.float32]:
        temperature = of.run.outcome.temperature
        return calibration.probabilities(images.logits, of.task, temperature)

    def energy(images: Seen) -> NDArray[np.float32]:
        logits = images.logits.astype(np.float64)
        if of.task == "multi":
            return np.asarray(-np.logaddexp(0, logits).sum(1), np.float32)
        return np.asarray(-np.logaddexp.reduce(logits, axis=1), np.float32)

    train = normalised(of.train.features)

    def neighbours(images: Seen) -> NDArray[np.float32]:
        near = np.partition(normalised(images.features) @ train.T, -10, axis=1)[:, -10]
        return np.asarray(-near, np.float32)

    found: dict[str, Method] = {
        "1 - highest score": lambda images: 1 - scores(images).max(1),
        "energy": energy,
        "10th neighbour": neighbours,
        "Mahalanobis": _mahalanobis(of, lambda features: features.astype(np.float64)),
        "Mahalanobis++, whole": _mahalanobis(of, normalised),
    }
    for directions in (1, 16, 64, 128):
        found[f"exported, {directions} directions"] = _exported(of, directions, TRAINED)
    for images in (250, 500, 1000):
        found[f"exported, {novelty.DIRECTIONS}, {images} images"] = _exported(
            of, novelty.DIRECTIONS, images
        )
    return found


def _mahalanobis(of: Known, scaled: Callable[[Features], NDArray[np.float64]]) -> Method:
    """With the whole covariance, or its pseudo-inverse, in float64."""
    x = scaled(of.train.features)
    labels = of.train_targets.argmax(1) if of.task == "single" else np.zeros(len(x), np.intp)
    names, rows = np.unique(labels, return_inverse=True)
    means = np.stack([x[rows == row].mean(0) for row in range(len(names))])
    residuals = x - means[rows]
    inverse = np.linalg.pinv(residuals.T @ residuals / len(x), hermitian=True)

    constants = np.einsum("cf,fg,cg->c", means, inverse, means, optimize=True)

    def distance(images: Seen) -> NDArray[np.float32]:
        y = scaled(images.features)
        projected = y @ inverse
        each = (projected * y).sum(1)[:, None] - 2 * projected @ means.T + constants
        return np.asarray(each.min(1), np.float32)

    return distance


def _exported(of: Known, directions: int, images: int) -> Method:
    rows = {record.sha256: row for row, record in enumerate(of.records)}
    some = [rows[record.sha256] for record in chosen(of.records, of.task, images)]
    fitted = novelty.fit(of.train.features[some], of.train_targets[some], of.task, directions)
    if fitted is None:
        raise ValueError("too few training images")
    return lambda images: fitted.of(images.features)


def found_table(sets: Mapping[str, Known]) -> str:
    pairs = [(name, other) for name, of in sets.items() for other in of.strangers]
    lines = [
        "| AUROC / found at 5 % | " + " | ".join(f"{a}: {b}" for a, b in pairs) + " | mean |",
        "|---" * (len(pairs) + 2) + "|",
    ]
    rows: dict[str, list[tuple[float, float]]] = {}
    for of in sets.values():
        for method, measure in methods(of).items():
            own = measure(of.valid)
            for images in of.strangers.values():
                rows.setdefault(method, []).append(_figures(own, measure(images)))
    for method, figures in rows.items():
        cells = [*figures, tuple(np.mean(figures, axis=0).tolist())]
        lines.append(
            f"| {method} | " + " | ".join(f"{auc:.2f} / {share:.2f}" for auc, share in cells) + " |"
        )
    return "\n".join(lines)


def _figures(own: NDArray[np.float32], others: NDArray[np.float32]) -> tuple[float, float]:
    truth = np.repeat([0, 1], [len(own), len(others)])
    auc = float(roc_auc_score(truth, np.concatenate([own, others])))
    return auc, float((others > np.quantile(own, 0.95)).mean())


def promised_table(sets: Mapping[str, Known]) -> str:
    lines = [
        "| | validation images | unknown at 0.01 | at 0.05 | no tag | strangers | unknown at 0.01"
        " | at 0.05 | no tag |",
        "|---" * 9 + "|",
    ]
    for name, of in sets.items():
        fitted = of.run.novelty()
        if fitted is None:
            continue
        own = fitted.of(of.valid.features)
        among = conformal.p_values_among(own)
        for other, images in of.strangers.items():
            p_values = conformal.p_values(fitted.of(images.features), np.sort(own))
            cells = [
                *(f"{(among <= alpha).mean():.3f}" for alpha in (0.01, 0.05)),
                _untagged(of, of.valid),
                f"{other}, {len(p_values)}",
                *(f"{(p_values <= alpha).mean():.3f}" for alpha in (0.01, 0.05)),
                _untagged(of, images),
            ]
            lines.append(f"| {name} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _untagged(of: Known, images: Seen) -> str:
    outcome = of.run.outcome
    if outcome.thresholds is None:
        return ""
    scores = calibration.probabilities(images.logits, of.task, outcome.temperature)
    return f"{(~(scores >= np.array(outcome.thresholds, np.float32)).any(1)).mean():.3f}"


def sets_table(sets: Mapping[str, Known]) -> str:
    shares = (0.8, 0.9, 0.95, 0.99)
    lines = [
        "| has the right label / labels, of sets for a coverage of | "
        + " | ".join(f"{share:g}" for share in shares)
        + " |",
        "|---" * (len(shares) + 1) + "|",
    ]
    for name, of in sets.items():
        if of.task == "multi":
            continue
        truth = of.valid_targets.argmax(1)
        temperature = of.run.outcome.temperature
        scores = calibration.probabilities(of.valid.logits, of.task, temperature)
        for program, sets_of in (("", own_sets), (", MAPIE", mapie_sets)):
            cells = []
            for share in shares:
                chosen_labels = _crossed(sets_of, scores, truth, share)
                inside = chosen_labels[np.arange(len(truth)), truth]
                cells.append(f"{inside.mean():.3f} / {chosen_labels.sum(1).mean():.2f}")
            lines.append(f"| {name}, {len(truth)}{program} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def own_sets(
    scores: NDArray[np.float32],
    truth: NDArray[np.intp],
    share: float,
    images: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """The labels of each image's set `[N, C]`, by held-out scores and right labels."""
    held_out = HeldOut(None, np.sort(coverage.mass_before(scores, truth)))
    found = np.zeros(images.shape, np.bool_)
    for row, image in enumerate(images):
        found[row, coverage.label_set(image, share, held_out)] = True
    return found


def mapie_sets(
    scores: NDArray[np.float32],
    truth: NDArray[np.intp],
    share: float,
    images: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """The same by MAPIE, as it comes."""
    peer = SplitConformalClassifier(
        GivenScores(scores.shape[1]), share, conformity_score="aps", random_state=SEED
    )
    _, found = peer.conformalize(scores, truth).predict_set(images)
    return np.asarray(found[:, :, 0], np.bool_)


def _crossed(
    sets_of: Callable[..., NDArray[np.bool_]],
    scores: NDArray[np.float32],
    truth: NDArray[np.intp],
    share: float,
) -> NDArray[np.bool_]:
    """Each image's set `[N, C]`, by the images of the other four fifths."""
    folds = np.random.default_rng(0).permutation(len(truth)) % 5
    found = np.empty(scores.shape, np.bool_)
    for fold in range(5):
        own, rest = folds == fold, folds != fold
        found[own] = sets_of(scores[rest], truth[rest], share, scores[own])
    return found


def main(folder: Path, work: Path) -> None:
    print(f"{processor()}, {cpu_cores()} cores\n")
    work.mkdir(parents=True, exist_ok=True)
    sets = {name: known(folder.resolve(), name, work.resolve()) for name in RUNS}
    for table in (found_table, promised_table, sets_table):
        print(table(sets), end="\n\n", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
