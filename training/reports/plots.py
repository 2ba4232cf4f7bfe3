"""The report's plots, each as inline SVG."""

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from training.evaluation import calibration_error
from training.evaluation.error_analysis import LabelMetrics, Sweep
from training.run_folder import Epoch

Pairs = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Probabilities `[N, K]`, and whether each came true."""

_CURVES_A_ROW = 5
_BLUE, _ORANGE, _GREY = "#1f5fa8", "#d9731a", "#9aa0a6"
_as_written = matplotlib.rc_context({"text.parse_math": False})  # $ in a label begins no formula


def curves(
    learning_rates: Sequence[float], losses: Sequence[float], epochs: Sequence[Epoch]
) -> str:
    """Loss of each step, mean losses of each epoch, and below them the head's learning rate."""
    figure = Figure(figsize=(9, 4.6))
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    steps = np.arange(1, len(losses) + 1)
    ends = len(losses) * np.arange(1, len(epochs) + 1) / max(len(epochs), 1)
    above.plot(steps, losses, color="#d0d4d9", linewidth=0.8, label="each step")
    for name, colour, words in (
        ("train_loss", _GREY, "training images"),
        ("valid_loss", _BLUE, "validation images"),
    ):
        above.plot(
            ends,
            [getattr(epoch, name) for epoch in epochs],
            "o-",
            color=colour,
            label=words,
            markersize=4,
        )
    above.set(ylabel="loss, nats", ylim=(0, 1.05 * max(np.quantile(losses, 0.99), 1e-3)))
    above.legend(frameon=False)
    below.plot(steps, learning_rates, color=_ORANGE)
    below.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    below.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    for end, epoch, following in zip(ends[:-1], epochs[:-1], epochs[1:], strict=True):
        if epoch.phase != following.phase:
            above.axvline(end, color=_GREY, linestyle=":", linewidth=1)
    return _svg(figure)


@_as_written
def histories(runs: Mapping[str, Sequence[Epoch]]) -> str:
    """Validation loss, and error or mAP, after each epoch of several runs, by name, on one scale.

    Phases follow each other: the head's epochs, then those of the whole network.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    lines: list[Line2D] = []
    for epochs in runs.values():
        numbers = range(1, len(epochs) + 1)
        lines += left.plot(numbers, _known(epochs, "valid_loss"), "o-", markersize=4)
        colour = lines[-1].get_color()
        left.plot(numbers, _known(epochs, "train_loss"), ":", color=colour, linewidth=1)
        metric = "error" if any(epoch.error is not None for epoch in epochs) else "map"
        right.plot(numbers, _known(epochs, metric), "o-", markersize=4, color=colour)
        right.set(ylabel={"error": "error", "map": "mean average precision"}[metric])
    left.set(xlabel="epoch", ylabel="loss, nats", ylim=(0, None))
    right.set(xlabel="epoch", ylim=(0, None))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(lines, list(runs), loc="outside upper left", frameon=False)
    return _svg(figure)


def _known(epochs: Sequence[Epoch], name: str) -> list[float]:
    """A value of each epoch; NaN, which is not drawn, where it was not measured."""
    values = [getattr(epoch, name) for epoch in epochs]
    return [np.nan if value is None else value for value in values]


@_as_written
def confusion(matrix: NDArray[np.int64], labels: Sequence[str]) -> str:
    """Images by true label (rows) and predicted label (columns); with counts up to 40 labels."""
    side = float(np.clip(0.3 * len(labels), 3, 12.5))
    figure = Figure(figsize=(side + 1.5, side + 1))
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 7 if len(labels) <= 40 else 4.5
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(labels)), labels, fontsize=size)
    if len(labels) <= 40:
        for row, column in np.argwhere(matrix):
            colour = "white" if shares[row, column] > 0.5 else "black"
            count = str(matrix[row, column])
            axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=6)
    return _svg(figure)


def calibration(before: Pairs, shipped: Pairs) -> str:
    """Predicted probability against how often it came true; before calibration and as shipped."""
    figure = Figure(figsize=(4.6, 4.4))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":", label="perfect calibration")
    for (predicted, came_true), colour, words in (
        (before, _ORANGE, "before calibration"),
        (shipped, _BLUE, "as shipped"),
    ):
        bins = calibration_error.bins(predicted).ravel()
        counts = np.bincount(bins, minlength=calibration_error.BINS)
        filled = counts > 0
        mean = np.bincount(bins, predicted.ravel(), len(counts))[filled] / counts[filled]
        share = np.bincount(bins, came_true.ravel(), len(counts))[filled] / counts[filled]
        axes.plot(mean, share, "o-", color=colour, label=words, markersize=4)
    axes.set(
        xlabel="predicted probability", ylabel="share that came true", xlim=(0, 1), ylim=(0, 1)
    )
    axes.legend(frameon=False)
    return _svg(figure)


def sweep(found: Sweep, without_tags: float) -> str:
    """What one threshold for all labels gives; `without_tags`: accuracy of predicting no tag."""
    figure = Figure(figsize=(9, 3.4))
    axes = figure.subplots()
    for values, words in (
        (found.precision, "precision"),
        (found.recall, "recall"),
        (found.micro_f1, "micro F1"),
        (found.accuracy, "accuracy of image-label pairs"),
    ):
        axes.plot(found.thresholds, values, label=words)
    axes.axhline(without_tags, color=_GREY, linestyle=":", label="accuracy without any tag")
    axes.set(xlabel="one threshold for all labels", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return _svg(figure)


@_as_written
def precision_recall(
    scores: NDArray[np.float32],
    targets: NDArray[np.bool_],
    metrics: Sequence[LabelMetrics],
    columns: Sequence[int],
) -> str:
    """Precision against recall of each label at `columns`, with a dot at its shipped threshold."""
    rows = -(-len(columns) // _CURVES_A_ROW)
    figure = Figure(figsize=(9, 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, _CURVES_A_ROW, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in grid[len(columns) :]:
        axes.set_visible(False)
    for axes, column in zip(grid, columns, strict=False):
        own = metrics[column]
        true = targets[np.argsort(-scores[:, column], kind="stable"), column]
        found = np.cumsum(true)
        axes.plot(found / true.sum(), found / np.arange(1, len(true) + 1), color=_BLUE)
        if own.precision is not None:
            axes.plot([own.recall], [own.precision], "o", color=_ORANGE, markersize=4)
        axes.set_title(f"{own.label} {own.average_precision:.2f}", fontsize=8, loc="left")
        axes.set(xlim=(0, 1.02), ylim=(0, 1.05))
        axes.tick_params(labelsize=6)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    # text stays text, and equal figures give equal bytes
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "labrador"}):
        figure.savefig(text, format="svg", metadata={"Date": None}, bbox_inches="tight")
    _, start, rest = text.getvalue().partition("<svg")
    return start + rest  # without the XML declaration
