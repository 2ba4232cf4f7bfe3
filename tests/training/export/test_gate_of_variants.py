"""What a variant may lose, on a tiny network whose scores are easy to change."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from models import bundle as bundles
from models.bundle import Bundle
from models.errors import GateError
from models.manifest import Gate, Precision, Task
from testkit import tiny_models
from training.data.record import Record
from training.evaluation import comparison
from training.evaluation.comparison import Difference
from training.export import gate
from training.export.gate import Reference, TooFewImagesError

TASKS: tuple[Task, ...] = ("single", "multi")
LEANING = np.array([[0, 0.2, 0], [0, 0.2, 0], [0, 0.2, 0]], np.float32)  # biased towards green


def images(colours: Sequence[Sequence[float]]) -> NDArray[np.uint8]:
    """Images of one colour each; channels in [0, 1]."""
    pixels = np.round(255 * np.array(colours)).astype(np.uint8)
    return np.broadcast_to(pixels[:, None, None], (len(pixels), 16, 16, 3)).copy()


def clear(count: int) -> Reference:
    """Red, green and blue images that the network predicts confidently and correctly."""
    return reference(images([np.eye(3)[n % 3] * 0.7 for n in range(count)]), "single")


def close(count: int, task: Task = "single") -> Reference:
    """Images that are a little more red than green; the true label is red."""
    random = np.random.default_rng(0)
    colours = [(0.5, 0.5 - 0.008 - 0.004 * random.random(), 0.1) for _ in range(count)]
    return reference(images(colours), task, [("red",)] * count)


def reference(
    pixels: NDArray[np.uint8], task: Task, truth: Sequence[Sequence[str]] | None = None
) -> Reference:
    scores = tiny_models.reference_scores(pixels, task)
    truth = truth or [(tiny_models.LABELS[label],) for label in scores.argmax(1)]
    records = [Record(f"{number}.jpg", tuple(labels)) for number, labels in enumerate(truth)]
    thresholds = (0.5, 0.5, 0.5) if task == "multi" else None
    return Reference(
        pixels, records, scores, tiny_models.LABELS, thresholds, 1.0, range(len(records))
    )


def checked(
    folder: Path,
    answers: Reference,
    change: NDArray[np.float32],
    precision: Precision = "int8",
    task: Task = "single",
) -> Gate:
    """What the gate measures on a variant whose weights differ from the network's by `change`."""
    whole = bundles.read(tiny_models.add(folder, "tiny", task))
    model = tiny_models.network(task, tiny_models.WEIGHTS + change)
    return gate.check(model, precision, whole.manifest, whole.files, answers).gate


def passed(whole: Bundle, answers: Reference) -> Gate:
    """What the gate measures on a bundle's own network."""
    return gate.check(whole.model, "fp32", whole.manifest, whole.files, answers).gate


def test_a_variant_that_decides_wrongly_within_its_tolerance_is_refused(tmp_path: Path) -> None:
    answers = close(24)
    with pytest.raises(GateError) as caught:
        checked(tmp_path, answers, LEANING)
    assert not isinstance(caught.value, TooFewImagesError)
    assert str(caught.value).startswith(
        "int8: worse than the trained network: +100.00 points of error on 24 validation images,"
        " between +"
    )
    assert str(caught.value).endswith("with 95 % confidence on each side (1 allowed)")


def test_a_variant_that_ranks_tags_wrongly_within_its_tolerance_is_refused(tmp_path: Path) -> None:
    """Every second image is a little more red, but not to the variant, which sees red less."""
    colours = np.array([[128, 90, 100], [141, 90, 125]] * 20) / 255
    answers = reference(images(colours.tolist()), "multi", [("green",), ("red",)] * 20)
    less_red = np.array([[-0.5, 0, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    with pytest.raises(GateError, match=r"^int8: worse than .* \+\d\d\.\d\d points of 1 - mAP on"):
        checked(tmp_path, answers, less_red, task="multi")


def test_a_variant_on_few_images_passes_where_its_scores_hardly_change(tmp_path: Path) -> None:
    answers = clear(24)
    found = checked(tmp_path, answers, np.float32(0.1) * LEANING)
    scores = tiny_models.reference_scores(
        answers.images, "single", tiny_models.WEIGHTS + np.float32(0.1) * LEANING
    )
    targets = np.array(
        [[label in record.labels for label in tiny_models.LABELS] for record in answers.records]
    )
    expected = comparison.separations(scores, answers.scores, targets)
    assert found.images == 24
    loss, separation = found.loss, found.separation_loss
    assert (loss.value, loss.low, loss.high) == pytest.approx((0, -0.1013, 0.1013), abs=1e-4)
    assert (separation.value, separation.low, separation.high) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=1e-5
    )
    assert separation.high < 0.01


def test_a_variant_whose_scores_change_has_too_few_images(tmp_path: Path) -> None:
    answers = clear(24)
    with pytest.raises(TooFewImagesError) as caught:
        checked(tmp_path, answers, np.float32(-0.4) * tiny_models.WEIGHTS)
    assert str(caught.value).startswith(
        "int8: too few images to tell whether it is worse than the trained network: +0.00 points of"
        " error on 24 validation images, between -10.13 and +10.13 with 95 % confidence on each"
        " side (1 allowed); about "
    )
    assert str(caught.value).endswith(" validation images would be enough")


def test_a_variant_whose_tags_fall_below_their_thresholds_is_refused(tmp_path: Path) -> None:
    """It scores red lower in every image, so it ranks and separates images as the network does."""
    colours = np.array([[90, 82, 82], [88, 83, 83], [86, 84, 84], [84, 85, 85]] * 10) / 255
    answers = reference(
        images(colours.tolist()), "multi", [("red",), ("red",), ("green",), ("green",)] * 10
    )
    lower = np.array([[-0.2, 0, 0]] * 3, np.float32)
    with pytest.raises(
        GateError, match=r"^int8: worse than .* \+\d\d\.\d\d points of 1 - micro F1 on"
    ):
        checked(tmp_path / "lower", answers, lower, task="multi")
    found = checked(tmp_path / "same", answers, 0 * lower, task="multi")
    assert found.tags_loss is not None
    assert (found.loss.value, found.tags_loss.value) == (0, 0)
    assert found.tags_loss.high == pytest.approx(1.6449**2 / (40 + 1.6449**2), rel=1e-3)


def test_a_variant_whose_probabilities_change_is_refused_though_it_decides_the_same(
    tmp_path: Path,
) -> None:
    """The network's temperature no longer fits."""
    with pytest.raises(GateError) as caught:
        checked(tmp_path, clear(300), np.float32(-0.6) * tiny_models.WEIGHTS)
    assert not isinstance(caught.value, TooFewImagesError)
    assert re.fullmatch(
        r"int8: its probabilities differ from the trained network's by (\d+\.\d\d) points on 300"
        r" validation images \(root mean square\), between \d+\.\d\d and \d+\.\d\d with 95 %"
        r" confidence on each side \(2 allowed\)",
        str(caught.value),
    )


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.0199, "as good"),
        (0.001, 0.0201, "too few"),
        (0.0199, 0.03, "too few"),
        (0.0201, 0.03, "worse"),
    ],
)
def test_probabilities_may_change_by_two_points(low: float, high: float, verdict: str) -> None:
    change = Difference(0.019**2, 0, low**2, high**2, std=0.001, most=0.01)
    gate._check_change("fp32", 100, change)
    if verdict == "as good":
        gate._check_change("int8", 100, change)
        return
    with pytest.raises(GateError) as caught:
        gate._check_change("int8", 100, change)
    assert isinstance(caught.value, TooFewImagesError) == (verdict == "too few")
    if verdict == "too few":
        assert str(caught.value).endswith(" validation images would be enough")


def test_many_images_show_by_decisions_alone_that_a_variant_is_as_good(
    tmp_path: Path,
) -> None:
    found = checked(tmp_path, clear(300), np.float32(-0.4) * tiny_models.WEIGHTS)
    assert found.loss.high < 0.01 < found.separation_loss.high


def test_fp32_needs_no_minimum_number_of_images(tmp_path: Path) -> None:
    found = checked(tmp_path, clear(1), np.zeros((3, 3), np.float32), "fp32")
    assert (found.images, found.loss.value) == (1, 0) and found.loss.high > 0.5


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_golden_images_prove_each_variant(tmp_path: Path, precision: Precision) -> None:
    """Validation images alone would let it pass: their scores are the network's."""
    whole = bundles.read(tiny_models.add(tmp_path, "tiny", "single"))
    scores = whole.files["golden/scores.json"]
    doctored = scores.replace(b"0.9", b"0.1")
    assert doctored != scores
    files = {**whole.files, "golden/scores.json": doctored}
    found = gate.check(whole.model, precision, whole.manifest, whole.files, clear(24)).gate
    assert found.max_difference < 1e-5
    with pytest.raises(GateError, match=f"^{precision}: scores differ by 0.8"):
        gate.check(whole.model, precision, whole.manifest, files, clear(24))


def tiny(folder: Path, task: Task = "single", **changes: Any) -> Bundle:
    """A tiny bundle with changes to its manifest."""
    whole = bundles.read(tiny_models.add(folder, "tiny", task))
    return replace(whole, manifest=whole.manifest.model_copy(update=changes))


def test_an_honest_network_passes_with_its_metrics(tmp_path: Path) -> None:
    answers = close(24)
    found = passed(tiny(tmp_path), answers)
    assert (found.tolerance, found.images, found.metrics["error"]) == (1e-4, 24, 0)
    assert 0 < found.max_difference < 1e-5


def test_a_variant_s_own_metrics_are_those_of_its_scores(tmp_path: Path) -> None:
    """The network is right on all images, the variant wrong on some that are close."""
    answers = reference(
        np.concatenate([clear(400).images, close(3).images]),
        "single",
        [(tiny_models.LABELS[n % 3],) for n in range(400)] + [("red",)] * 3,
    )
    found = checked(tmp_path, answers, LEANING)
    assert found.own_metrics is not None
    error = found.own_metrics["error"]
    assert error.value == pytest.approx(3 / 403)
    assert error.low < error.value < error.high
    assert passed(tiny(tmp_path / "itself"), answers).own_metrics["error"].value == 0  # type: ignore[index]


def test_labels_in_another_order_are_refused_with_both_orders(tmp_path: Path) -> None:
    message = "^fp32: the labels are green, red, blue, the trained network's red, green, blue$"
    with pytest.raises(GateError, match=message):
        passed(tiny(tmp_path, labels=("green", "red", "blue")), close(24))


def test_a_few_decisions_that_differ_are_no_excuse_for_other_labels(tmp_path: Path) -> None:
    """The grey golden image is a tie, which any change breaks."""
    model = tiny_models.network("single", tiny_models.WEIGHTS + np.float32(0.1) * LEANING)
    whole = bundles.read(tiny_models.add(tmp_path, "tiny", "single"))
    files, answers = whole.files, clear(24)
    found = gate.check(model, "int8", whole.manifest, files, answers).gate
    assert found.flips > 0
    assert found.decisions == 24 + 10 + 1  # validation, golden, and a golden one alone
    turned = whole.manifest.model_copy(update={"labels": ("green", "red", "blue")})
    with pytest.raises(GateError, match="int8: the labels are green, red, blue, the trained"):
        gate.check(model, "int8", turned, files, answers)


def test_a_decision_that_differs_on_a_rare_label_is_no_other_label(tmp_path: Path) -> None:
    """Macro F1 falls by a half, and a thousandth of the images is wrong."""
    colours = [*[(0, 0, 0.7)] * 999, (0.5, 0.49, 0.1)]
    answers = reference(images(colours), "single")
    assert answers.records[-1].labels == ("red",)
    found = checked(tmp_path, answers, LEANING)
    assert found.metrics["error"] == pytest.approx(0.001)
    assert found.metrics["macro_f1"] == pytest.approx(0.5, abs=0.001)


def test_other_thresholds_are_refused(tmp_path: Path) -> None:
    answers = close(24, "multi")
    assert passed(tiny(tmp_path / "a", "multi"), answers).metrics["map"] == 1
    message = "^fp32: the thresholds are 0.99, 0.5, 0.5, the trained network's 0.5, 0.5, 0.5$"
    with pytest.raises(GateError, match=message):
        passed(tiny(tmp_path / "b", "multi", thresholds=(0.99, 0.5, 0.5)), answers)


def graph_with(change: Callable[[onnx.ModelProto], Any]) -> bytes:
    graph = onnx.load_from_string(tiny_models.network("single"))
    change(graph)
    return bytes(graph.SerializeToString())


def refused_graph(folder: Path, model: bytes) -> str:
    whole = bundles.read(tiny_models.add(folder, "tiny", "single", model))
    with pytest.raises(GateError) as caught:
        passed(whole, close(3))
    return str(caught.value)


def test_foreign_operators_are_refused_by_their_names(tmp_path: Path) -> None:
    foreign = [onnx.helper.make_opsetid(f"org.{name}", 1) for name in ("b", "a")]
    model = graph_with(lambda graph: graph.opset_import.extend(foreign))
    assert refused_graph(tmp_path, model) == "the graph uses operators from org.a, org.b"
    microsoft = [onnx.helper.make_opsetid("com.microsoft", 1)]
    model = graph_with(lambda graph: graph.opset_import.extend(microsoft))
    whole = bundles.read(tiny_models.add(tmp_path / "other", "tiny", "single", model))
    assert passed(whole, close(3)).images == 3


def test_weights_outside_the_file_are_refused(tmp_path: Path) -> None:
    def outside(graph: onnx.ModelProto) -> None:
        graph.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL

    message = refused_graph(tmp_path, graph_with(outside))
    assert message == "the graph keeps weights outside its file"


def test_every_precision_may_lose_a_point_and_smaller_ones_may_change_scores_more() -> None:
    found = {name: (one.score, one.loss, one.change) for name, one in gate.TOLERANCES.items()}
    assert found == {
        "fp32": (1e-4, 0.01, 0.02),
        "fp16": (0.01, 0.01, 0.02),
        "int8": (0.25, 0.01, 0.02),
    }


def test_the_reference_is_the_network_s_scores_in_batches() -> None:
    class Doubling(torch.nn.Module):
        sizes: ClassVar[list[int]] = []
        novelty = None

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            self.sizes.append(len(images))
            return 2 * images.float().mean((1, 2)), torch.zeros(1)

    pixels = np.random.default_rng(0).integers(0, 256, (150, 4, 4, 3), dtype=np.uint8)
    found = gate.reference_outputs(Doubling(), pixels).scores  # type: ignore[arg-type]
    np.testing.assert_allclose(found, 2 * pixels.mean((1, 2)), rtol=1e-5)
    assert Doubling.sizes == [64, 64, 22]


def judged(loss: tuple[float, float, float], separation: tuple[float, float, float]) -> str:
    """The verdict on int8 with 100 images, given value, low and high of each loss."""
    try:
        gate._check_loss(
            "int8",
            "error",
            100,
            *(
                Difference(0.5 + value, 0.5, low, high, std=0.1, most=0.1)
                for value, low, high in (loss, separation)
            ),
        )
    except TooFewImagesError:
        return "too few"
    except GateError:
        return "worse"
    return "as good"


@pytest.mark.parametrize(
    ("loss", "separation", "verdict"),
    [
        ((0.002, -0.005, 0.009), (0.03, 0.02, 0.04), "as good"),
        ((0.002, -0.03, 0.03), (0.002, -0.005, 0.009), "as good"),
        ((0.002, -0.03, 0.03), (0.002, -0.005, 0.011), "too few"),
        ((0.002, -0.03, 0.03), (0.03, 0.02, 0.04), "too few"),
        ((0.012, -0.03, 0.05), (0.002, -0.005, 0.009), "too few"),
        ((0.03, 0.009, 0.05), (0.002, -0.005, 0.009), "too few"),
        ((0.03, 0.011, 0.05), (0.002, -0.005, 0.009), "worse"),
    ],
)
def test_a_loss_is_allowed_if_it_is_shown_to_be_small(
    loss: tuple[float, float, float], separation: tuple[float, float, float], verdict: str
) -> None:
    """At most one point: by decisions, or by separation if decisions lose no more."""
    assert judged(loss, separation) == verdict


@pytest.mark.parametrize(
    ("loss", "separation", "needed"),
    [(0.0, 0.0, "155"), (0.0, 0.02, "619"), (0.02, 0.0, "619"), (0.005, 0.005, "619")],
)
def test_the_error_says_how_many_images_would_be_enough(
    loss: float, separation: float, needed: str
) -> None:
    """As many as the cheaper of the two needs, but separation does not excuse a loss."""
    with pytest.raises(
        TooFewImagesError, match=rf"; about {needed} validation images would be enough$"
    ):
        gate._check_loss(
            "int8",
            "error",
            100,
            Difference(0.5 + loss, 0.5, loss - 0.1, loss + 0.1, std=0.1, most=0.1),
            Difference(0.5 + separation, 0.5, -0.1, 0.1, std=0.05, most=0.1),
        )
