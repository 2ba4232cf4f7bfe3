import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models import golden
from models.bundle import Bundle, hashes
from models.errors import GateError
from models.golden import (
    TOLERANCE_CPU,
    TOLERANCE_CUDA,
    Agreement,
    Runner,
    compare,
    forms,
    inputs,
    samples,
    scores_file,
)
from models.manifest import Manifest
from models.outputs import Answerer, Outputs
from models.preprocess import decode, load
from testkit.bundles import FILES, manifest, multi
from testkit.odd_images import encoded
from testkit.preprocess_reference import drawn

IMAGES = [
    encoded(drawn(500, 400), "JPEG", quality=95),
    encoded(drawn(300, 420)[:, ::-1], "PNG"),
    encoded(255 - drawn(90, 60), "WEBP", quality=95),
]
TOLERANCE = 1e-4


def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A stand-in network: the softmax of the mean colours of one corner."""
    assert images.dtype == np.uint8
    logits = images[:, :12, :12].mean(axis=(1, 2), dtype=np.float64) / 40
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def check(bundle: Bundle, run: Runner, tolerance: float) -> Agreement:
    """The check of a bundle whose network has no novelty."""
    return golden.check(bundle, lambda images: Outputs(run(images)), tolerance)


def bundle_of(one: Manifest, files: dict[str, bytes], scores: NDArray[np.float32]) -> Bundle:
    content = FILES | files | {"golden/scores.json": scores_file(list(files), scores)}
    listed = one.model_copy(update={"files": hashes(content)})
    return Bundle(Path("pets/1"), listed, content)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return forms(IMAGES)


@pytest.fixture(scope="module")
def bundle(files: dict[str, bytes]) -> Bundle:
    return bundle_of(manifest(), files, run(inputs(files, manifest().preprocess)))


# Encodings


@pytest.mark.parametrize(
    ("name", "form", "mode"),
    [
        ("baseline.jpg", "JPEG", "RGB"),
        ("progressive.jpg", "JPEG", "RGB"),
        ("exif-turned.jpg", "JPEG", "RGB"),
        ("cmyk.jpg", "JPEG", "CMYK"),
        ("grey.jpg", "JPEG", "L"),
        ("png-named.jpg", "PNG", "RGB"),
        ("palette.png", "PNG", "P"),
        ("sixteen-bit.png", "PNG", "I;16"),
        ("transparent.png", "PNG", "RGBA"),
        ("lossy.webp", "WEBP", "RGB"),
    ],
)
def test_each_encoding_is_what_its_file_name_says(
    name: str, form: str, mode: str, files: dict[str, bytes]
) -> None:
    image = Image.open(io.BytesIO(files[f"golden/{name}"]))
    assert (image.format, image.mode) == (form, mode)
    assert ("progressive" in image.info) == (name == "progressive.jpg")
    assert image.getexif().get(0x0112, 1) == (6 if name == "exif-turned.jpg" else 1)
    assert image.has_transparency_data == (name in ("palette.png", "transparent.png"))


def test_there_are_no_other_encodings(files: dict[str, bytes]) -> None:
    assert len(files) == 10
    assert all(name.startswith("golden/") for name in files)


def test_the_images_are_used_in_turn_and_shrunk_to_384(files: dict[str, bytes]) -> None:
    sizes = [load(data, 1e9).size for data in files.values()]
    assert sizes == [(384, 307), (274, 384), (90, 60)] * 3 + [(384, 307)]


def test_one_image_is_enough_and_its_full_colour_encodings_still_resemble_it() -> None:
    preprocess = manifest().preprocess
    expected = decode(IMAGES[0], preprocess).astype(int)
    for name, data in forms(IMAGES[:1]).items():
        if not name.endswith(("grey.jpg", "sixteen-bit.png", "transparent.png", "palette.png")):
            assert np.abs(decode(data, preprocess) - expected).mean() < 6, name


def test_sixteen_bit_samples_use_the_full_range(files: dict[str, bytes]) -> None:
    samples = np.asarray(Image.open(io.BytesIO(files["golden/sixteen-bit.png"])))
    assert samples.max() > 40000


def test_sixteen_bit_samples_are_the_grey_levels_times_257() -> None:
    grey = Image.fromarray(drawn(90, 60)).convert("L")
    samples = np.asarray(
        Image.open(io.BytesIO(forms([encoded(grey, "PNG")])["golden/sixteen-bit.png"]))
    )
    assert np.array_equal(samples, np.asarray(grey).astype(np.int64) * 257)


def test_lossy_encodings_have_the_quality_of_photos() -> None:
    """On an image that is not shrunk: identical bytes, or the tables of quality 92."""
    small = load(IMAGES[2], 1e9)
    files = forms(IMAGES[2:])
    assert files["golden/lossy.webp"] == encoded(small, "WEBP", quality=90)
    for name in ("baseline", "progressive", "exif-turned"):
        tables = Image.open(io.BytesIO(encoded(small, "JPEG", quality=92)))
        image = Image.open(io.BytesIO(files[f"golden/{name}.jpg"]))
        assert getattr(image, "quantization") == getattr(tables, "quantization"), name  # noqa: B009
    for name, mode in (("cmyk", "CMYK"), ("grey", "L")):
        expected = encoded(small.convert(mode), "JPEG", quality=92)
        assert files[f"golden/{name}.jpg"] == expected


def test_a_palette_has_64_colours_of_which_the_first_is_transparent(
    files: dict[str, bytes],
) -> None:
    image = Image.open(io.BytesIO(files["golden/palette.png"]))
    assert len(image.getcolors() or []) == 64
    assert image.info["transparency"] == 0


def test_opacity_reaches_from_nearly_none_to_full(files: dict[str, bytes]) -> None:
    alpha = np.asarray(Image.open(io.BytesIO(files["golden/transparent.png"])))[:, :, 3]
    assert alpha.min() <= 2
    assert alpha.max() >= 250


# Scores


def test_scores_read_back_from_the_file_are_bit_identical() -> None:
    scores = np.random.default_rng(0).random((4, 37), np.float32)
    scores[0, :3] = [0.0, 1.0, float(np.finfo(np.float32).tiny)]
    names = ["golden/a", "golden/b", "golden/c", "golden/d"]
    table = json.loads(scores_file(names, scores))
    assert list(table) == names
    assert np.array(list(table.values()), np.float32).tobytes() == scores.tobytes()


def test_a_scores_file_has_one_line_per_score() -> None:
    text = scores_file(["golden/a"], np.array([[0.5, 0.25]], np.float32)).decode()
    assert text == '{\n "golden/a": [\n  0.5,\n  0.25\n ]\n}'


def test_the_tolerances_are_as_documented() -> None:
    assert (TOLERANCE_CPU, TOLERANCE_CUDA) == (1e-4, 2e-3)


def test_empty_scores_agree() -> None:
    nothing = np.zeros((0, 3), np.float32)
    assert compare(nothing, nothing, manifest(), TOLERANCE) == Agreement(0.0, 0, 0)


def test_a_difference_as_large_as_the_tolerance_passes() -> None:
    expected = np.array([[0.5, 0.25, 0.25]], np.float32)
    got = np.array([[0.5, 0.375, 0.125]], np.float32)
    assert compare(expected, got, manifest(), 0.125) == Agreement(0.125, 0, 1)


def test_the_largest_difference_is_named_with_its_image_label_and_both_scores() -> None:
    expected = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], np.float32)
    got = np.array([[0.5, 0.25, 0.25], [0.25, 0.125, 0.375]], np.float32)
    message = (
        "scores differ by 0.38, more than 0.0001: image 1, label 'dog': 0.125000, not 0.500000"
    )
    with pytest.raises(GateError) as caught:
        compare(expected, got, manifest(), TOLERANCE)
    assert str(caught.value) == message


def test_a_file_name_without_scores_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        scores_file(["golden/a", "golden/b"], np.zeros((1, 3), np.float32))


def test_a_correct_runner_passes_for_one_image_and_for_a_batch(bundle: Bundle) -> None:
    sizes = []

    def recorded(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes.append(images.shape)
        return run(images)

    assert check(bundle, recorded, TOLERANCE) == Agreement(0.0, 0, 11)
    assert sizes == [(10, 24, 24, 3), (1, 24, 24, 3)]


def only_in_a_batch(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return run(images) if len(images) > 1 else run(images) * np.float32(0.9)


def only_alone(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return run(images) if len(images) == 1 else run(images)[::-1]


def one_bad_label(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    scores = run(images)
    scores[-1, 1] += np.float32(2e-4)
    return scores


def not_a_number(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    scores = run(images)
    scores[-1, 2] = np.nan
    return scores


@pytest.mark.parametrize(
    "wrong",
    [
        lambda images: run(images)[:, [1, 0, 2]],
        lambda images: run(images) * np.float32(1.001),
        lambda images: run(images[:, :, :, ::-1]),
        lambda images: run(images[:, ::-1]),
        lambda images: np.full((len(images), 3), 1 / 3, np.float32),
        only_in_a_batch,
        only_alone,
        one_bad_label,
        not_a_number,
    ],
    ids=[
        *("labels swapped", "scaled", "BGR", "upside down", "constant", "only in a batch"),
        *("only alone", "one bad label", "NaN"),
    ],
)
def test_a_wrong_runner_is_refused_and_the_label_named(wrong: Runner, bundle: Bundle) -> None:
    message = r"scores differ by \S+, more than 0\.0001: image \d, label '(cat|dog|emu)'"
    with pytest.raises(GateError, match=message) as caught:
        check(bundle, wrong, TOLERANCE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda images: run(images)[:, :2],
        lambda images: np.concatenate([run(images), run(images)[:, :1]], axis=1),
        lambda images: run(images)[:1],
        lambda images: run(images)[0],
        lambda images: run(images)[:, None],
        lambda images: run(images) if len(images) == 1 else run(images).ravel(),
    ],
    ids=["label missing", "label too many", "first only", "no batch", "an axis more", "flat batch"],
)
def test_scores_of_another_shape_are_refused(wrong: Runner, bundle: Bundle) -> None:
    with pytest.raises(GateError, match=r"scores have the shape \(.*\), not \(10, 3\)"):
        check(bundle, wrong, TOLERANCE)


def test_changed_preprocessing_is_detected(bundle: Bundle) -> None:
    preprocess = bundle.manifest.preprocess.model_copy(update={"crop_fraction": 1.0})
    other = bundle.manifest.model_copy(update={"preprocess": preprocess})
    with pytest.raises(GateError, match="scores differ"):
        check(Bundle(bundle.path, other, bundle.files), run, TOLERANCE)


def test_a_difference_within_the_tolerance_passes_and_is_reported(bundle: Bundle) -> None:
    off = np.float32(3e-5)
    agreement = check(bundle, lambda images: run(images) + off, TOLERANCE)
    assert agreement.max_difference == pytest.approx(3e-5, rel=0.01)
    with pytest.raises(GateError, match=r"more than 2e-05"):
        check(bundle, lambda images: run(images) + off, 2e-5)


def test_a_small_difference_that_changes_the_top_label_is_counted() -> None:
    expected = np.array([[0.4, 0.40001, 0.2], [0.1, 0.8, 0.1]], np.float32)
    got = np.array([[0.40001, 0.4, 0.2], [0.1, 0.8, 0.1]], np.float32)
    agreement = compare(expected, got, manifest(), TOLERANCE)
    assert agreement.flips == 1
    assert compare(expected, expected, manifest(), TOLERANCE) == Agreement(0.0, 0, 2)


def test_each_label_that_crosses_its_threshold_is_counted() -> None:
    one = manifest(**multi(thresholds=[0.5, 0.25, 0.75]))
    expected = np.array([[0.5, 0.25, 0.75], [0.1, 0.2, 0.3]], np.float32)
    got = expected - np.float32(1e-5)
    agreement = compare(expected, got, one, TOLERANCE)
    assert (agreement.flips, agreement.decisions) == (3, 6)
    expected[0], got[0] = 0.9, 0.9
    expected[1, 1], got[1, 1] = 0.24999, 0.25
    assert compare(expected, got, one, TOLERANCE).flips == 1


def test_flips_of_both_batch_sizes_add_up(files: dict[str, bytes]) -> None:
    scores = run(inputs(files, manifest().preprocess))
    tied = scores.copy()
    tied[0] = [0.4, 0.40001, 0.2]

    def other(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = run(images)
        found[np.all(np.isclose(found, scores[0], atol=1e-6), axis=1)] = [0.40001, 0.4, 0.2]
        return found

    assert check(bundle_of(manifest(), files, tied), other, TOLERANCE).flips == 2


def test_the_samples_are_three_jpegs_of_different_images(files: dict[str, bytes]) -> None:
    whole = Bundle(Path("pets"), manifest(), files)
    pictures = [load(data, 384, formats=["JPEG"]) for data in samples(whole)]
    assert len({picture.size for picture in pictures}) == 3
    assert samples(Bundle(Path("pets"), manifest(), {})) == []


# Novelty

STRANGE = np.array([1, 2, 0.5, 4, 3, 1, 2, 1, 1, 2], np.float32)


@pytest.fixture(scope="module")
def strange(bundle: Bundle) -> Bundle:
    """The bundle, with novelties of its ten golden files."""
    names = list(json.loads(bundle.files["golden/scores.json"]))
    scores = run(inputs({name: bundle.files[name] for name in names}, manifest().preprocess))
    files = {**bundle.files, **golden.outputs_files(names, Outputs(scores, STRANGE))}
    return Bundle(bundle.path, bundle.manifest, files)


def answering(novelty: NDArray[np.float32] | None) -> Answerer:
    return lambda images: Outputs(run(images), None if novelty is None else novelty[: len(images)])


def test_novelty_within_the_tolerance_passes_and_its_difference_is_reported(
    strange: Bundle,
) -> None:
    near = STRANGE.copy()
    near[2] *= np.float32(1.01)
    found = golden.check(strange, answering(near), TOLERANCE, 0.02)
    assert found.novelty_difference == pytest.approx(0.01, rel=1e-3)
    assert found == Agreement(0.0, 0, 11, found.novelty_difference)
    exact = golden.check(strange, answering(STRANGE), TOLERANCE, 0.02)
    assert exact.novelty_difference == 0


@pytest.mark.parametrize(
    ("row", "value", "message"),
    [
        (3, 4.2, r"novelty differs by 0\.05 of it, more than 0\.02: image 3: 4\.2, not 4"),
        (9, 1.9, r"novelty differs by 0\.05 of it, more than 0\.02: image 9: 1\.9, not 2"),
        (0, np.nan, r"novelty differs by nan of it, more than 0\.02: image 0: nan, not 1"),
    ],
    ids=["above", "below", "NaN"],
)
def test_another_novelty_is_refused_and_the_image_named(
    strange: Bundle, row: int, value: float, message: str
) -> None:
    other = STRANGE.copy()
    other[row] = value
    with pytest.raises(GateError, match=message):
        golden.check(strange, answering(other), TOLERANCE, 0.02)


@pytest.mark.parametrize(
    "novelty", [None, STRANGE[:5], STRANGE[:, None]], ids=["none", "too few", "an axis more"]
)
def test_novelty_of_another_shape_is_refused(
    strange: Bundle, novelty: NDArray[np.float32] | None
) -> None:
    with pytest.raises(GateError, match=r"novelty has the shape .*, not \(10,\)"):
        golden.check(strange, answering(novelty), TOLERANCE, 0.02)


def test_novelty_that_is_right_in_a_batch_only_is_refused(strange: Bundle) -> None:
    def answer(images: NDArray[np.uint8]) -> Outputs:
        return Outputs(run(images), STRANGE if len(images) == 10 else 2 * STRANGE[:1])

    with pytest.raises(GateError, match="image 0: 2, not 1"):
        golden.check(strange, answer, TOLERANCE, 0.02)
