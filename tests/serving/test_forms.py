"""Which form of a network serves: of real networks, some made tens of times slower."""

import gc
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from models import bundle
from models.bundle import Bundle
from models.errors import BundleError, GateError
from serving import forms, memory
from serving.forms import Form, open_proved
from serving.hardware import gpus
from serving.onnx_runtime import CPU, DeviceError, on_cpu
from serving.session import Network, Session
from serving.settings import Settings
from testkit import tiny_models
from tests.serving.test_session import PLACE, bundle_of, images_of, session_of

FAST = tiny_models.network("single", tiny_models.WEIGHTS * 1.01)
SLOW, HALFWAY = (tiny_models.network("single", slow=times) for times in (16, 4))
WRONG = tiny_models.network("single", -tiny_models.WEIGHTS)
BETTER = r"\d+\.\d\d times as many images a second as fp32 at batch 8, \d+\.\d\d at batch 1"
WORSE = r"0\.\d\d times as many images a second as fp32 at batch 8, 0\.\d\d at batch 1"


def _cannot_run() -> bytes:
    """A network that loads, and fails whatever it is given: three means are not two rows."""
    model = onnx.load_from_string(FAST)
    (linear,) = (node for node in model.graph.node if node.op_type == "MatMul")
    linear.input[0] = "halves"
    shape = numpy_helper.from_array(np.array([-1, 7], np.int64), "shape")
    whole = numpy_helper.from_array(np.array([-1, 3], np.int64), "whole")
    model.graph.initializer.extend([shape, whole])
    for number, (source, to, result) in enumerate(
        [("means", "shape", "sevenths"), ("sevenths", "whole", "halves")]
    ):
        place = list(model.graph.node).index(linear) + number
        model.graph.node.insert(place, helper.make_node("Reshape", [source, to], [result]))
    content: bytes = model.SerializeToString()
    return content


def _bundle(folder: Path, int8: bytes, fp32: bytes | None = None) -> Bundle:
    return bundle.read(tiny_models.add(folder, "colours", "single", fp32, int8=int8))


def _opened(whole: Bundle) -> Session:
    return open_proved(whole, Settings(device="cpu"), PLACE)


@pytest.mark.parametrize(
    ("fp32", "int8", "chosen", "why"),
    [
        (SLOW, FAST, "int8", f"auto: int8 answers {BETTER}"),
        (None, SLOW, "fp32", f"auto: nothing is clearly faster than fp32: int8 answers {WORSE}"),
    ],
)
def test_auto_serves_the_form_that_is_faster_here(
    fp32: bytes | None, int8: bytes, chosen: str, why: str, tmp_path: Path
) -> None:
    session = _opened(_bundle(tmp_path, int8, fp32))
    assert session.variant.precision == chosen
    assert re.fullmatch(why, session.why)
    found = {(s.provider, s.precision, s.batch): s.images_per_second for s in session.speeds}
    assert found.keys() == {(CPU, name, batch) for name in ("fp32", "int8") for batch in (1, 8)}
    other = {"fp32": "int8", "int8": "fp32"}[chosen]
    for batch in (1, 8):
        assert found[CPU, chosen, batch] > found[CPU, other, batch]


def test_what_is_chosen_is_what_answers(tmp_path: Path) -> None:
    whole, images = _bundle(tmp_path, FAST, SLOW), images_of(4)
    exact = open_proved(whole, Settings(device="cpu", precision="fp32"), PLACE)
    np.testing.assert_allclose(
        exact.run(images), tiny_models.reference_scores(images, "single"), atol=1e-5
    )
    weights = tiny_models.WEIGHTS * 1.01
    np.testing.assert_allclose(
        _opened(whole).run(images),
        tiny_models.reference_scores(images, "single", weights),
        atol=1e-5,
    )


def test_full_batches_are_those_of_the_settings(tmp_path: Path) -> None:
    whole = _bundle(tmp_path, FAST, SLOW)
    for largest, batches in ((4, {1, 4}), (1, {1})):
        session = open_proved(whole, Settings(device="cpu", max_batch=largest), PLACE)
        assert {speed.batch for speed in session.speeds} == batches


def test_a_requested_precision_is_not_timed(tmp_path: Path) -> None:
    whole = _bundle(tmp_path, SLOW)
    session = open_proved(whole, Settings(device="cpu", precision="int8"), PLACE)
    assert (session.variant.precision, session.speeds) == ("int8", ())
    assert session.why == "LABRADOR_PRECISION=int8"


def test_auto_uses_fp32_if_there_is_nothing_else(store: Path) -> None:
    session = _opened(bundle_of(store, "tags"))
    assert (session.variant.precision, session.speeds) == ("fp32", ())
    assert session.why == "auto: the bundle has only fp32 for a CPU"


def _forms(whole: Bundle, *networks: tuple[str, bytes]) -> list[Form]:
    """As another runtime would add them: several of one variant."""
    (fp32, *_) = whole.manifest.variants

    def opener(network: bytes) -> Callable[[], Network]:
        changed = Bundle(whole.path, whole.manifest, {**whole.files, fp32.file: network})
        return lambda: on_cpu(changed, fp32, threads=1)

    return [Form(name, fp32, opener(network)) for name, network in networks]


@pytest.mark.parametrize("order", [("other", "fast"), ("fast", "other")])
def test_of_several_faster_forms_the_fastest_serves_and_is_named_first(
    order: tuple[str, str], store: Path
) -> None:
    whole = bundle_of(store, "colours")
    networks = {"fast": tiny_models.network("single"), "other": HALFWAY}
    rivals = [(name, networks[name]) for name in order]
    session = forms._fastest(_forms(whole, ("fp32", SLOW), *rivals), whole, 0)
    answers = r"\d+\.\d\d times as many images a second as fp32 at batch 8, \d+\.\d\d at batch 1"
    assert re.fullmatch(f"auto: fast answers {answers}; other answers {answers}", session.why)
    assert len(session.speeds) == 6
    fp32 = session.speeds[:2]  # as they were beside the one that serves
    fast = session.speeds[2 + 2 * order.index("fast") :][:2]
    for slower, faster in zip(fp32, fast, strict=True):
        ratio = faster.images_per_second / slower.images_per_second
        assert f" {ratio:.2f} " in session.why.partition(";")[0]


@pytest.mark.parametrize(
    ("int8", "failed"),
    [
        (b"no network", "did not run"),
        (_cannot_run(), "did not run"),
        (WRONG, "failed its golden images"),
    ],
)
def test_auto_leaves_out_a_form_that_fails_here(
    int8: bytes, failed: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = _bundle(tmp_path, int8)
    session = _opened(whole)
    assert session.variant.precision == "fp32"
    assert session.why == f"auto: int8 {failed} here"
    (record,) = caplog.records
    assert record.name == "serving.forms"
    assert record.getMessage().startswith(f"{whole.path}: int8 is left out: ")
    assert len(record.getMessage()) > len(f"{whole.path}: int8 is left out: None")
    with pytest.raises(Exception):  # noqa: B017  that of ONNX Runtime has no class of its own
        open_proved(whole, Settings(device="cpu", precision="int8"), PLACE)


def test_another_form_serves_where_fp32_fails(tmp_path: Path) -> None:
    session = _opened(_bundle(tmp_path, FAST, WRONG))
    assert session.variant.precision == "int8"
    assert session.why == "auto: fp32 failed its golden images here"


def test_if_no_form_works_the_error_is_that_of_fp32(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="scores differ"):
        _opened(_bundle(tmp_path, b"no network", WRONG))


@pytest.fixture
def opened_now(monkeypatch: pytest.MonkeyPatch) -> weakref.WeakSet[Any]:
    """Those of the test's sessions of ONNX Runtime that are not closed."""
    found: weakref.WeakSet[Any] = weakref.WeakSet()
    opening = ort.InferenceSession.__init__

    def recorded(self: Any, *arguments: Any, **options: Any) -> None:
        opening(self, *arguments, **options)
        found.add(self)

    monkeypatch.setattr(ort.InferenceSession, "__init__", recorded)
    return found


@pytest.mark.parametrize("int8", [FAST, SLOW, WRONG])
def test_forms_that_do_not_serve_are_closed(
    int8: bytes, tmp_path: Path, opened_now: weakref.WeakSet[Any]
) -> None:
    whole = _bundle(tmp_path, int8)
    gc.disable()  # a form must go by itself, at once
    try:
        session = _opened(whole)
        assert len(opened_now) == 1
        del session
        assert len(opened_now) == 0
    finally:
        gc.enable()


def test_memory_is_given_back_once_the_others_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened_now: weakref.WeakSet[Any]
) -> None:
    whole, open_then = _bundle(tmp_path, FAST, SLOW), list[int]()
    monkeypatch.setattr(memory, "give_back", lambda: open_then.append(len(opened_now)))
    _opened(whole)
    assert open_then == [1]


def test_at_most_three_forms_are_open_at_once(
    store: Path, opened_now: weakref.WeakSet[Any]
) -> None:
    whole, beside = bundle_of(store, "colours"), list[int]()
    names = ["fp32", "a", "b", "c", "d"]
    fast, *slow = tiny_models.network("single"), SLOW, SLOW, SLOW
    made = _forms(whole, *zip(names, [SLOW, fast, *slow], strict=True))

    def watched(form: Form) -> Form:
        def opening() -> Network:
            network = form.open()
            beside.append(len(opened_now))
            return network

        return Form(form.name, form.variant, opening)

    forms._fastest([watched(form) for form in made], whole, 0)
    assert beside[:3] == [1, 2, 3]
    assert len(beside) == 5 and max(beside) <= 3


def test_a_precision_that_the_bundle_lacks_is_refused_with_the_available_ones(
    tmp_path: Path,
) -> None:
    whole = _bundle(tmp_path, tiny_models.network("single"))
    with pytest.raises(BundleError, match="^colours:1 has no fp16; it has fp32, int8$"):
        open_proved(whole, Settings(device="cpu", precision="fp16"), PLACE)


@pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
def test_without_a_gpu_cuda_is_an_error_and_auto_uses_the_cpu(store: Path) -> None:
    whole = bundle_of(store, "colours")
    with pytest.raises(DeviceError, match="no GPU"):
        session_of(whole, "cuda")
    assert session_of(whole, "auto").provider == CPU
