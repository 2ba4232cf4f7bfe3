import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from models import bundle
from models.commands.rollback import go_back
from models.errors import BundleError, DataError, GateError, ReleaseError
from models.manifest import Metric, Release
from models.outputs import Outputs
from models.store import Store
from training import run_folder
from training.data import decoding
from training.data.split import Split
from training.evaluation import comparison
from training.evaluation.scorer import Scorer, load
from training.export import export, reduced_precision
from training.export.run_images import validation_images
from training.network.resnet import Served
from training.release import MARGIN
from training.release.release import (
    Comparison,
    _decision,
    against,
    judge,
    release,
    supported_margin,
    text,
)
from training.run_folder import Run

CPU = torch.device("cpu")


def difference(value: float, low: float, high: float) -> comparison.Difference:
    return comparison.Difference(0.2 + value, 0.2, low, high, std=0.3)


def compared(**changes: Any) -> Comparison:
    whole = Comparison("error", 500, 0, difference(0.0, -0.005, 0.005), (), ())
    return replace(whole, **changes)


@pytest.fixture
def own_store(store: Store, tmp_path: Path) -> Store:
    """A copy of the store that a test may change."""
    return Store(Path(shutil.copytree(store.root, tmp_path / "store")))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The exporter takes seconds: reuse its export of the network, with the head it has now."""
    if not {"run", "single_run", "multi_run", "store"} & set(request.fixturenames):
        return
    store: Store = request.getfixturevalue("store")
    made = {
        task: bundle.read(store.path(name)).model
        for task, name in (("single", "colours"), ("multi", "stripes"))
    }

    def with_head(served: Served, size_px: int) -> bytes:
        model = onnx.load_from_string(made[served.task])
        for name, values in served.network.resnet.fc.state_dict().items():
            (tensor,) = (t for t in model.graph.initializer if t.name.endswith(f"fc.{name}"))
            tensor.CopyFrom(numpy_helper.from_array(values.numpy(), tensor.name))
        return bytes(model.SerializeToString())

    monkeypatch.setattr(export, "onnx_bytes", with_head)


def compare(run: Run, old: Scorer) -> Comparison:
    """On the run's validation images, each model with its own preprocessing."""
    return against(run, old, CPU, validation_images(run, None, [old.preprocess]))


NAMES = {"single": "colours", "multi": "stripes"}


def spoilt(good: Run, folder: Path) -> Run:
    """The run with a network that predicts wrongly: its head's weights are negated."""
    shutil.copytree(good.path, folder)
    copy = run_folder.read(folder)
    network = copy.network()
    head = network.resnet.fc.weight
    with torch.no_grad():
        head.copy_(-head)
    run_folder.write_weights(folder, network.weights())
    return run_folder.read(folder)


def test_a_candidate_within_the_margin_passes() -> None:
    assert judge(compared(), 0.01, ()) == []
    assert judge(compared(difference=difference(0.004, 0.001, 0.009)), 0.01, ()) == []


def test_a_worse_candidate_is_refused_as_worse() -> None:
    (reason,) = judge(compared(difference=difference(0.05, 0.03, 0.07)), 0.01, ())
    assert reason == (
        "the candidate is worse: +5.00 points of error on 500 images, up to +7.00 with 95 %"
        " confidence (margin 1.00)"
    )


def test_too_few_images_are_named_as_the_reason() -> None:
    (reason,) = judge(compared(difference=difference(0.0, -0.03, 0.03)), 0.01, ())
    assert reason.startswith("too few images to tell: +0.00 points of error on 500 images, up to")
    assert reason.endswith("(margin 1.00); about 5,565 validation images would be enough")
    (doubtful,) = judge(compared(difference=difference(0.03, -0.01, 0.07)), 0.01, ())
    assert doubtful.startswith(
        "the candidate may be worse, but there are too few images to be sure: +3.00"
    )


def test_at_the_bounds_themselves_a_candidate_is_neither_worse_nor_beyond_the_margin() -> None:
    equal_at_best = comparison.Difference(0.75, 0.5, low=0.0, high=0.45, std=0.3)
    (doubtful,) = judge(compared(difference=equal_at_best), 0.125, ())
    assert doubtful.startswith("the candidate may be worse, but there are too few images")
    assert supported_margin(compared(difference=equal_at_best), ()) == 0.45
    (few,) = judge(compared(difference=equal_at_best), 0.25, ())
    assert few.startswith("too few images to tell: +25.00 points")


@pytest.mark.parametrize(
    ("high", "margin"),
    [(0.019, 0.02), (0.0201, 0.025), (0.005, 0.005), (0.31, 0.31), (0.499, None)],
)
def test_the_margin_that_the_images_support_is_given(high: float, margin: float | None) -> None:
    found = compared(difference=difference(0.0, -0.03, high))
    assert supported_margin(found, ()) == margin
    if margin is not None:
        assert judge(found, margin, ()) == []
        assert margin - high < 0.005


def test_no_margin_helps_a_candidate_that_is_worse_or_refused_for_another_reason() -> None:
    few = compared(difference=difference(0.0, -0.03, 0.03))
    assert supported_margin(replace(few, difference=difference(0.02, 0.001, 0.03)), ()) is None
    assert supported_margin(replace(few, difference=None), ()) is None
    lost = replace(few, regressions=[comparison.Regression("dog", 12, 1, 0.01)])
    assert supported_margin(lost, ()) is None
    assert supported_margin(lost, ("dog",)) == 0.03
    gone = replace(few, gone=["cat"])
    assert (supported_margin(gone, ()), supported_margin(gone, ("cat",))) == (None, 0.03)


def test_no_image_to_compare_on_is_a_reason() -> None:
    (reason,) = judge(compared(images=0, difference=None), 0.01, ())
    assert reason == "no image is left with a label of both that neither was trained on"


def test_a_label_that_got_worse_is_a_reason_unless_allowed() -> None:
    lost = [comparison.Regression("dog", 12, 1, 0.01), comparison.Regression("eel", 9, 1, 0.02)]
    found = compared(regressions=lost, gone=["cat", "owl"])
    assert judge(found, 0.01, ()) == [
        "worse on dog, eel by more than chance (see --allow-label)",
        "it no longer has the label cat, owl (see --allow-label)",
    ]
    assert judge(found, 0.01, ("dog", "cat")) == [
        "worse on eel by more than chance (see --allow-label)",
        "it no longer has the label owl (see --allow-label)",
    ]
    assert judge(found, 0.01, ("dog", "eel", "cat", "owl")) == []


def decided(found: Comparison, allowed: Sequence[str] = (), forced: bool = False) -> Release:
    return Release(
        verdict="refused: it is worse" if forced else "released: not worse",
        replaced=3,
        images=found.images,
        margin=0.02,
        difference=None,
        worse_labels=(),
        allowed_labels=tuple(allowed),
        forced=forced,
    )


def test_the_verdict_has_its_metrics_bounds_and_labels() -> None:
    lost = [comparison.Regression("dog", 12, 1, 0.0012), comparison.Regression("eel", 9, 2, 0.03)]
    found = compared(left_out=7, regressions=lost)
    candidate = Run(Path("runs/new"), cast(Any, None), Split((), ()))
    assert text(found, candidate, "pets:3", decided(found, ["eel"])).splitlines() == [
        "## runs/new against pets:3",
        "",
        "**released: not worse**",
        "",
        "| 500 images that neither was trained on | error |",
        "|---|---|",
        "| candidate | 0.2000 |",
        "| pets:3 | 0.2000 |",
        "| difference, 95 % bounds | +0.0000 [-0.0050, +0.0050] |",
        "| largest upper bound allowed (margin) | +0.0200 |",
        "",
        "7 validation images left out, which pets:3 was trained on, or lacks the label of.",
        "dog: 12 images lost, 1 won (McNemar with Holm's correction, p = 0.0012)",
        "eel: 9 images lost, 2 won (McNemar with Holm's correction, p = 0.03, allowed)",
    ]
    nothing = compared(images=0, difference=None)
    assert text(nothing, candidate, "pets:3", decided(nothing, forced=True)).splitlines() == [
        "## runs/new against pets:3",
        "",
        "**refused: it is worse**",
    ]


def test_the_decision_is_kept_with_its_reasons() -> None:
    lost = [comparison.Regression("dog", 12, 1, 0.0012)]
    found = compared(difference=difference(0.004, -0.001, 0.009), regressions=lost, gone=["cat"])
    kept = _decision(found, 3, 0.01, ("dog", "cat"), [])
    assert kept == Release(
        verdict="released: not worse by more than the margin",
        replaced=3,
        images=500,
        margin=0.01,
        difference=Metric(value=(0.2 + 0.004) - 0.2, low=-0.001, high=0.009),
        worse_labels=("dog", "cat"),
        allowed_labels=("cat", "dog"),
        forced=False,
    )
    refused = _decision(found, 3, 0.01, (), ["it is worse", "it is old"])
    assert (refused.verdict, refused.forced) == ("refused: it is worse; it is old", True)
    better = _decision(compared(difference=difference(-0.02, -0.03, -0.01)), 3, 0.01, (), [])
    assert better.verdict == "released: better by 2.00 points of error"
    even = _decision(compared(difference=difference(-0.02, -0.04, 0.0)), 3, 0.01, (), [])
    assert even.verdict == "released: not worse by more than the margin"
    nothing = _decision(compared(images=0, difference=None), 3, 0.01, (), ["none"])
    assert (nothing.difference, nothing.images) == (None, 0)


def test_the_first_release_has_nothing_to_compare_with(run: Run, task: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = release(run, "new", store, CPU)
    assert store.released("new") == 1
    assert bundle.read(path).manifest.release == Release(
        verdict="released: the first version, nothing to compare with",
        replaced=None,
        images=0,
        margin=MARGIN,
        difference=None,
        worse_labels=(),
        allowed_labels=(),
        forced=False,
    )


def test_the_same_model_again_is_refused_for_too_few_images(
    run: Run, task: str, own_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    name = NAMES[task]
    with pytest.raises(ReleaseError, match=rf"^refused: too few .*; {name}:1 stays rel") as caught:
        release(run, name, own_store, CPU)
    suggested = re.search(
        r"\(--margin (0\.\d+) would accept it, --force releases", str(caught.value)
    )
    found = compare(run, load(own_store.path(f"{name}:1"), CPU))
    assert suggested and judge(found, float(suggested[1]), ()) == []
    assert own_store.versions(name) == [1]
    printed = capsys.readouterr().out
    assert printed.startswith(
        f"## {run.path} against {name}:1\n\n**refused: too few images to tell"
    )
    metric = {"single": "error", "multi": "1 - mAP"}[task]
    assert f"images that neither was trained on | {metric} |" in printed
    assert "| +0.0000 [-0." in printed


def test_with_a_wide_margin_the_same_model_passes_and_is_released(
    run: Run, task: str, own_store: Store
) -> None:
    name = NAMES[task]
    path = release(run, name, own_store, CPU, margin=0.3, precisions=("fp16",))
    assert (path.name, own_store.released(name)) == ("2", 2)
    manifest = bundle.read(path).manifest
    assert [variant.precision for variant in manifest.variants] == ["fp32", "fp16"]
    decision = manifest.release
    assert decision is not None
    assert decision.verdict == "released: not worse by more than the margin"
    assert (decision.replaced, decision.margin, decision.forced) == (1, 0.3, False)
    assert decision.images == len(run.split.valid)
    assert decision.difference is not None and decision.difference.value == 0


def test_a_spoilt_model_is_refused_as_worse_and_released_by_force(
    run: Run, task: str, own_store: Store, tmp_path: Path
) -> None:
    name = NAMES[task]
    bad = spoilt(run, tmp_path / "bad")
    with pytest.raises(ReleaseError, match=r"the candidate is worse: \+\d\d\.\d\d points of"):
        release(bad, name, own_store, CPU, margin=0.05)
    assert own_store.released(name) == 1
    path = release(bad, name, own_store, CPU, margin=0.05, force=True)
    assert own_store.released(name) == 2
    decision = bundle.read(path).manifest.release
    assert decision is not None and decision.forced
    assert decision.verdict.startswith("refused: the candidate is worse")


def test_one_label_that_got_worse_is_enough_to_be_refused(
    multi_run: Run, own_store: Store, tmp_path: Path
) -> None:
    """Only blue, one of three labels, is inverted: 1 - mAP stays within half of the range."""
    shutil.copytree(multi_run.path, tmp_path / "bad")
    network = multi_run.network()
    with torch.no_grad():
        network.resnet.fc.weight[0].neg_()
        network.resnet.fc.bias[0].neg_()
    run_folder.write_weights(tmp_path / "bad", network.weights())
    bad = run_folder.read(tmp_path / "bad")
    refusal = (
        r"^refused: worse on blue by more than chance \(see --allow-label\); stripes:1 stays"
        r" released \(--force releases it anyway\)$"
    )
    with pytest.raises(ReleaseError, match=refusal):
        release(bad, "stripes", own_store, CPU, margin=0.49)
    found = compare(bad, load(own_store.path("stripes:1"), CPU))
    assert judge(found, 0.49, ("blue",)) == []


def test_a_better_model_is_released_as_better(
    single_run: Run, own_store: Store, tmp_path: Path
) -> None:
    bad = spoilt(single_run, tmp_path / "bad")
    release(bad, "colours", own_store, CPU, force=True)
    path = release(single_run, "colours", own_store, CPU)
    decision = bundle.read(path).manifest.release
    assert decision is not None and decision.verdict.startswith("released: better by ")
    assert own_store.released("colours") == 3


def test_images_that_the_released_model_was_trained_on_are_left_out(
    single_run: Run, store: Store
) -> None:
    old = load(store.path("colours:1"), CPU)
    seen = single_run.split.valid[0].sha256
    found = compare(single_run, replace(old, trained_on=old.trained_on | {seen}))
    whole = compare(single_run, old)
    assert (found.left_out, found.images) == (1, whole.images - 1)
    everything = frozenset(record.sha256 for record in single_run.split.records)
    nothing = compare(single_run, replace(old, trained_on=everything))
    assert nothing == Comparison("error", 0, len(single_run.split.valid), None, (), [])


def test_images_of_which_none_has_a_label_of_both_show_nothing(
    multi_run: Run, store: Store
) -> None:
    """Average precision needs an image that has the label."""
    old = replace(load(store.path("stripes:1"), CPU), labels=("crimson", "red", "scarlet"))
    images = validation_images(multi_run)
    records = [replace(record, labels=("blue",)) for record in images.records]
    nothing = against(multi_run, old, CPU, replace(images, records=records))
    assert nothing == Comparison("1 - mAP", 0, len(records), None, (), ["crimson", "scarlet"])


def test_each_model_gets_the_images_in_its_own_preprocessing(
    single_run: Run, own_store: Store
) -> None:
    """A released model with another crop gets its images with that crop."""
    old = load(own_store.path("colours:1"), CPU)
    seen = []

    def spying(images: Any) -> Any:
        seen.append(images)
        return old.answer(images)

    preprocess = old.preprocess.model_copy(update={"crop_fraction": 0.5})
    compare(single_run, replace(old, answer=spying))
    compare(single_run, replace(old, answer=spying, preprocess=preprocess))
    assert seen[0].shape == seen[1].shape and not np.array_equal(seen[0], seen[1])
    outcome = single_run.outcome.model_copy(update={"preprocess": preprocess})
    release(replace(single_run, outcome=outcome), "colours", own_store, CPU, force=True)
    assert own_store.released("colours") == 2


def test_an_image_s_own_label_does_not_influence_its_tags(
    multi_run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The candidate's thresholds for an image are fitted on other images: fitted on the same ones,
    they would bias the comparison towards it."""
    old, compared = load(store.path("stripes:1"), CPU), comparison.regressions
    seen: list[Any] = []
    seen_of_old: list[Any] = []

    def watched(new_wrong: Any, old_wrong: Any, labels: Any) -> Any:
        seen.append(new_wrong)
        seen_of_old.append(old_wrong)
        return compared(new_wrong, old_wrong, labels)

    monkeypatch.setattr(comparison, "regressions", watched)
    images, labels = validation_images(multi_run), multi_run.outcome.labels
    assert old.preprocess == multi_run.outcome.preprocess
    against(multi_run, old, CPU, images)
    before = seen.pop()
    several = [len(record.labels) > 1 for record in images.records]
    for wrong in (before, seen_of_old[0]):
        assert not wrong[several].any(1).all(), "never all labels of an image that has several"
    for row, record in enumerate(images.records):
        turned = replace(record, labels=tuple(sorted(set(labels) - set(record.labels))))
        records = [turned if other is record else other for other in images.records]
        against(multi_run, old, CPU, replace(images, records=records))
        # each of its labels is now wrong where it was right, so its tags are the same as before
        assert np.array_equal(seen.pop()[row], ~before[row]), record.file


def test_labels_are_compared_by_name_and_not_by_order(run: Run, task: str, store: Store) -> None:
    old = load(store.path(f"{NAMES[task]}:1"), CPU)
    turned = replace(
        old,
        labels=old.labels[::-1],
        thresholds=old.thresholds and old.thresholds[::-1],
        answer=lambda images: Outputs(old.run(images)[:, ::-1]),
    )
    assert compare(run, turned) == compare(run, old)


def test_labels_that_only_one_model_has_are_left_out_and_missing_ones_named(
    single_run: Run, multi_run: Run, store: Store
) -> None:
    old = load(store.path("colours:1"), CPU)
    renamed = replace(old, labels=("blue", "green", "crimson"))
    found = compare(single_run, renamed)
    assert found.gone == ["crimson"]
    red = sum(record.labels == ("red",) for record in single_run.split.valid)
    assert found.left_out == red > 0
    tags = load(store.path("stripes:1"), CPU)
    found = compare(multi_run, replace(tags, labels=("blue", "green", "crimson")))
    assert (found.gone, found.left_out) == (["crimson"], 0)


def test_the_suggested_margin_holds_for_the_labels_that_are_allowed_to_be_missing(
    single_run: Run, own_store: Store
) -> None:
    def renamed(labels: Sequence[str]) -> tuple[str, ...]:
        return tuple("crimson" if label == "red" else label for label in labels)

    outcome = single_run.outcome.model_copy(update={"labels": renamed(single_run.outcome.labels)})
    train, valid = (
        tuple(replace(record, labels=renamed(record.labels)) for record in side)
        for side in (single_run.split.train, single_run.split.valid)
    )
    run = replace(single_run, outcome=outcome, split=Split(train, valid))
    with pytest.raises(ReleaseError, match=r"\(--margin 0\.\d+ would accept it, --force"):
        release(run, "colours", own_store, CPU, allowed=["red"])
    with pytest.raises(ReleaseError, match=r"released \(--force releases it anyway\)$"):
        release(run, "colours", own_store, CPU)


def test_images_that_were_moved_since_training_are_read_where_they_are_now(
    single_run: Run,
    single_data: Path,
    own_store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The validation images, and the training images that int8 is made of."""
    gone, moved = tmp_path / "gone", tmp_path / "moved"
    shutil.copytree(single_data, moved)
    given = []

    def quantized(model: bytes, _: str, images: Any) -> bytes:
        given.append(images)
        return model

    monkeypatch.setattr(reduced_precision, "quantized", quantized)
    outcome = single_run.outcome.model_copy(update={"root": str(gone)})
    run = replace(single_run, outcome=outcome)
    with pytest.raises(DataError, match="give its folder with --data"):
        release(run, "colours", own_store, CPU, margin=0.3)
    options: dict[str, Any] = {"margin": 0.3, "precisions": ("int8",), "data_path": str(moved)}
    release(run, "colours", own_store, CPU, **options)
    assert own_store.released("colours") == 2
    trained_on = sorted(run.split.train, key=lambda record: record.sha256)
    files = [moved / record.file for record in trained_on]
    assert np.array_equal(given[0], decoding.served(files, run.outcome.preprocess))


def test_the_other_task_is_refused(single_run: Run, own_store: Store) -> None:
    with pytest.raises(ReleaseError, match="stripes:1 is multi-label and .* is single-label"):
        release(single_run, "stripes", own_store, CPU)


@pytest.mark.parametrize("margin", [0, -0.01, 1, float("nan")])
def test_an_invalid_margin_is_refused(margin: float, single_run: Run, own_store: Store) -> None:
    with pytest.raises(ReleaseError, match="use a share above 0 and below 0.5"):
        release(single_run, "colours", own_store, CPU, margin=margin)


def test_an_unknown_allowed_label_is_refused(single_run: Run, own_store: Store) -> None:
    with pytest.raises(ReleaseError, match="--allow-label pink: neither the run nor colours:1 has"):
        release(single_run, "colours", own_store, CPU, allowed=["pink"])


def test_a_gate_that_fails_releases_nothing_even_by_force(
    single_run: Run, own_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    multi = bundle.read(own_store.path("stripes")).model
    monkeypatch.setattr(export, "onnx_bytes", lambda network, size_px: multi)
    with pytest.raises(GateError):
        release(single_run, "colours", own_store, CPU, force=True)
    assert (own_store.versions("colours"), own_store.released("colours")) == ([1], 1)


def test_a_concurrent_release_is_not_overwritten(
    single_run: Run, own_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = vars(export)["onnx_bytes"]  # the quick one

    def slowly(network: Any, size_px: int) -> bytes:
        release_other = export.export(single_run, "colours", own_store)
        own_store.release("colours", int(release_other.name))
        return bytes(original(network, size_px))

    def once(network: Any, size_px: int) -> bytes:
        monkeypatch.setattr(export, "onnx_bytes", original)
        return slowly(network, size_px)

    monkeypatch.setattr(export, "onnx_bytes", once)
    with pytest.raises(
        ReleaseError, match="colours:2 was released in the meantime: run release again"
    ):
        release(single_run, "colours", own_store, CPU, margin=0.3)
    assert own_store.released("colours") == 2


def test_rollback_goes_to_the_version_that_was_replaced(single_run: Run, own_store: Store) -> None:
    export.export(single_run, "colours", own_store)  # version 2, never released
    release(single_run, "colours", own_store, CPU, margin=0.3)
    assert go_back("colours", own_store) == (3, 1)
    assert own_store.released("colours") == 1
    assert go_back("colours", own_store, 2) == (1, 2)


def test_rollback_refuses_a_missing_or_corrupt_version(own_store: Store, single_run: Run) -> None:
    with pytest.raises(BundleError, match="colours:1 replaced no version: .* valid: 1"):
        go_back("colours", own_store)
    with pytest.raises(BundleError, match="colours has no version 7; it has 1"):
        go_back("colours", own_store, 7)
    release(single_run, "colours", own_store, CPU, margin=0.3)
    (own_store.path("colours:1") / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="model.onnx is corrupt"):
        go_back("colours", own_store)
    assert own_store.released("colours") == 2


def test_the_candidate_may_come_from_another_split(single_run: Run, own_store: Store) -> None:
    """Another seed splits differently: the released model's training images are left out."""
    train, valid = single_run.split.train, single_run.split.valid
    other = replace(single_run, split=Split((*train[5:], *valid[:5]), (*train[:5], *valid[5:])))
    path = release(other, "colours", own_store, CPU, force=True)
    decision = bundle.read(path).manifest.release
    assert decision is not None and decision.images == len(valid) - 5
