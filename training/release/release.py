"""`release`: the candidate replaces the released model if it is shown not to be worse.

Both predict the same images, without those that either was trained on. The candidate is refused if
it may be worse by more than the margin, or is worse on a label by more than chance. `rollback`
undoes a release.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from models.errors import ReleaseError
from models.manifest import Precision, Release
from models.signing.signature import Signer
from models.store import Store
from models.wording import counted
from training.data.targets import encode
from training.evaluation import calibration, comparison, scorer
from training.evaluation.comparison import Difference, Regression
from training.evaluation.decisions import decide
from training.evaluation.scorer import Scorer
from training.export.export import export
from training.export.run_images import RunImages, validation_images
from training.network.inference import logits_of
from training.release import MARGIN, check_margin, is_margin
from training.run_folder import Run


@dataclass(frozen=True)
class Comparison:
    """A candidate and the released model on the same images. Metrics: less is better.

    left_out: number of images that the released model was trained on or whose label it lacks.
    gone: its labels that the candidate lacks. difference: None if no image is left that has a label
    of both.
    """

    metric: str
    images: int
    left_out: int
    difference: Difference | None
    regressions: Sequence[Regression]
    gone: Sequence[str]


def release(
    run: Run,
    name: str,
    store: Store,
    device: torch.device,
    *,
    margin: float = MARGIN,
    allowed: Collection[str] = (),
    force: bool = False,
    precisions: Sequence[Precision] | None = None,
    data_path: str | Sequence[str] | None = None,
    signer: Signer | None = None,
) -> Path:
    """Compare, export through the gate, and make it the released version; the bundle's folder.

    Prints the verdict as Markdown. `margin`: a share. `allowed`: labels that may get worse or be
    missing. Raises ReleaseError if the candidate is refused, which `force` overrides, and whatever
    `export` raises; then the released version stays.
    """
    released = store.released(name) if name in store.names() else None
    check_margin(margin)
    images = None
    if released is None:
        decision = Release(
            verdict="released: the first version, nothing to compare with",
            replaced=None,
            images=0,
            margin=margin,
            difference=None,
            worse_labels=(),
            allowed_labels=(),
            forced=False,
        )
    else:
        old = scorer.load(store.path(f"{name}:{released}"), device)
        if run.outcome.task != old.task:
            raise ReleaseError(
                f"{old.name} is {old.task}-label and {run.path} is {run.outcome.task}-label: use"
                " another --name"
            )
        images = validation_images(run, data_path, [old.preprocess])
        found = against(run, old, device, images)
        if unknown := sorted(set(allowed) - {*run.outcome.labels, *old.labels}):
            raise ReleaseError(
                f"--allow-label {unknown[0]}: neither the run nor {old.name} has this label"
            )
        reasons = judge(found, margin, allowed)
        decision = _decision(found, released, margin, allowed, reasons)
        print(text(found, run, old.name, decision))
        if reasons and not force:
            supported = supported_margin(found, allowed)
            ways = f"--margin {supported:g} would accept it, " if supported else ""
            raise ReleaseError(
                f"{decision.verdict}; {old.name} stays released ({ways}--force releases it anyway)"
            )
    path = export(
        run,
        name,
        store,
        data_path,
        precisions=precisions,
        release=decision,
        found=images,
        signer=signer,
    )
    version = int(path.name)
    try:  # the first version of a name was released when it was written
        store.release(name, version, instead_of=released or version)
    except ReleaseError as error:
        raise ReleaseError(
            f"{error}: run release again to compare with it;"
            f" {store.address(f'{name}:{version}')} was written, but not released"
        ) from error
    return path


def against(run: Run, old: Scorer, device: torch.device, images: RunImages) -> Comparison:
    """Compare the run's network with the model `old` of the same task on its validation images.

    Labels that only one of them has are left out, and so are single-label images of them. The
    run's thresholds are cross-fitted, as those that it ships with were fitted on these images.
    """
    outcome, records = run.outcome, images.records
    common = [label for label in outcome.labels if label in old.labels]
    rows = [
        row
        for row, record in enumerate(records)
        if record.sha256 not in old.trained_on
        and (outcome.task == "multi" or record.labels[0] in common)
    ]
    gone = [label for label in old.labels if label not in common]
    metric = comparison.METRIC[outcome.task]
    if not any(label in common for row in rows for label in records[row].labels):
        return Comparison(metric, 0, len(records), None, (), gone)
    targets = encode([records[row] for row in rows], outcome.labels)
    pixels = torch.from_numpy(images.images[outcome.preprocess][rows])
    logits = logits_of(run.network().to(device), pixels, device)
    scores = old.run(images.images[old.preprocess][rows])
    predicted = decide(logits, None)
    if outcome.task == "multi":
        _, predicted = calibration.cross_fitted(logits, targets, outcome.task)
    new_columns = [outcome.labels.index(label) for label in common]
    old_columns = [old.labels.index(label) for label in common]
    targets = targets[:, new_columns]
    new_wrong = predicted[:, new_columns] != targets
    old_wrong = decide(scores, old.thresholds)[:, old_columns] != targets
    if outcome.task == "single":
        difference = comparison.errors(new_wrong.any(1), old_wrong.any(1))
    else:
        difference = comparison.average_precisions(
            logits[:, new_columns], scores[:, old_columns], targets
        )
    regressions = comparison.regressions(new_wrong, old_wrong, common)
    left_out = len(records) - len(rows)
    return Comparison(metric, len(rows), left_out, difference, regressions, gone)


def judge(found: Comparison, margin: float, allowed: Collection[str]) -> list[str]:
    """Why the candidate must not be released; empty if it may be."""
    reasons = []
    if found.difference is None:
        reasons.append("no image is left with a label of both that neither was trained on")
    elif found.difference.high > margin:
        reasons.append(_margin_exceeded(found.difference, margin, found.metric, found.images))
    worse = [one for one in found.regressions if one.label not in allowed]
    if worse:
        names = ", ".join(one.label for one in worse)
        reasons.append(f"worse on {names} by more than chance (see --allow-label)")
    if gone := [label for label in found.gone if label not in allowed]:
        reasons.append(f"it no longer has the label {', '.join(gone)} (see --allow-label)")
    return reasons


def text(found: Comparison, run: Run, old: str, decision: Release) -> str:
    """The verdict as Markdown."""
    lines = [f"## {run.path} against {old}", "", f"**{decision.verdict}**", ""]
    if found.difference is not None:
        bounds = f"[{found.difference.low:+.4f}, {found.difference.high:+.4f}]"
        lines += [
            f"| {counted(found.images, 'image')} that neither was trained on | {found.metric} |",
            "|---|---|",
            f"| candidate | {found.difference.candidate:.4f} |",
            f"| {old} | {found.difference.released:.4f} |",
            f"| difference, 95 % bounds | {found.difference.value:+.4f} {bounds} |",
            f"| largest upper bound allowed (margin) | {decision.margin:+.4f} |",
            "",
        ]
    if found.left_out:
        lines.append(
            f"{counted(found.left_out, 'validation image')} left out, which {old} was"
            " trained on, or lacks the label of."
        )
    for one in found.regressions:
        mark = ", allowed" if one.label in decision.allowed_labels else ""
        lines.append(
            f"{one.label}: {counted(one.lost, 'image')} lost, {one.won} won (McNemar with Holm's"
            f" correction, p = {one.p:.2g}{mark})"
        )
    return "\n".join(lines)


def _margin_exceeded(difference: Difference, margin: float, metric: str, images: int) -> str:
    seen = (
        f"{100 * difference.value:+.2f} points of {metric} on {counted(images, 'image')}, up to"
        f" {100 * difference.high:+.2f} with 95 % confidence (margin {100 * margin:.2f})"
    )
    if difference.low > 0:
        return f"the candidate is worse: {seen}"
    if difference.value > margin:
        return f"the candidate may be worse, but there are too few images to be sure: {seen}"
    needed = comparison.images_needed(difference, margin)
    enough = counted(needed, "validation image")
    return f"too few images to tell: {seen}; about {enough} would be enough"


def supported_margin(found: Comparison, allowed: Collection[str]) -> float | None:
    """The smallest margin, in half points, at which the same comparison would pass.

    None if no margin would do, or if the candidate is shown to be worse.
    """
    difference = found.difference
    if difference is None or difference.low > 0:
        return None
    margin = math.ceil(difference.high * 200) / 200
    return margin if is_margin(margin) and not judge(found, margin, allowed) else None


def _decision(
    found: Comparison, released: int, margin: float, allowed: Collection[str], reasons: list[str]
) -> Release:
    difference = found.difference
    return Release(
        verdict=f"refused: {'; '.join(reasons)}" if reasons else _why_released(found),
        replaced=released,
        images=found.images,
        margin=margin,
        difference=difference and difference.metric,
        worse_labels=(*(one.label for one in found.regressions), *found.gone),
        allowed_labels=tuple(sorted(allowed)),
        forced=bool(reasons),
    )


def _why_released(found: Comparison) -> str:
    difference = found.difference
    if difference is not None and difference.high < 0:
        return f"released: better by {-100 * difference.value:.2f} points of {found.metric}"
    return "released: not worse by more than the margin"
