import io
import random
import re
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.errors import (
    FormatUnsupported,
    ImageMissing,
    ImageTooLarge,
    ImageUndecodable,
    LabradorError,
)
from models.manifest import Preprocess
from models.preprocess import TRAINING_FORMATS, decode, decode_with_box, image_format, load
from testkit import preprocess_reference
from testkit.odd_images import (
    animated_webp_claiming,
    encoded,
    heic,
    jpeg_claiming,
    jpeg_in_three_scans,
    png,
    png_chunk,
    png_with_right_checksums,
    webp_claiming,
)
from testkit.preprocess_reference import Case, drawn

CASES = preprocess_reference.cases()
PALE = [name for name, case in CASES.items() if case.kind in ("rgb", "rgba")]
TURNED = [f"exif-{orientation}" for orientation in range(1, 9)]
SMALL = Preprocess(image_size_px=24, crop_fraction=0.875)
WHOLE_SCALE = 1e9  # a shorter side that no JPEG is reduced to


@pytest.fixture(scope="module")
def committed() -> dict[str, NDArray[np.uint8]]:
    with np.load(preprocess_reference.FILE, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def preprocess_of(case: Case) -> Preprocess:
    return Preprocess(image_size_px=case.size_px, crop_fraction=case.crop_fraction)


def orientation_of(case: Case) -> int | None:
    return None if case.orientation == 1 else case.orientation


def avif(samples: NDArray[np.uint8], orientation: int | None = None) -> bytes:
    return encoded(samples, "AVIF", orientation, quality=90)


def differences(got: NDArray[np.uint8], expected: NDArray[np.uint8]) -> NDArray[np.int64]:
    assert got.dtype == np.uint8
    assert got.shape == expected.shape
    return np.asarray(np.abs(got.astype(np.int64) - expected), np.int64)


def assert_lossless(data: bytes, case: Case, expected: NDArray[np.uint8]) -> None:
    """Pillow rounds to whole levels after each of its two passes: at most one level."""
    assert differences(decode(data, preprocess_of(case)), expected).max() <= 1


def assert_jpeg(data: bytes, case: Case, expected: NDArray[np.uint8]) -> None:
    """At quality 100 without subsampling, YCbCr and coefficients are rounded: 5 levels seen.

    A box that is half a reduced pixel off gives 10 to 20, and 2 to 4 on average.
    """
    found = differences(decode(data, preprocess_of(case)), expected)
    assert found.max() <= 6
    assert found.mean() <= 0.8


# The reference


def test_the_reference_still_gives_the_committed_pixels(
    committed: dict[str, NDArray[np.uint8]],
) -> None:
    assert committed.keys() == CASES.keys()
    for name, case in CASES.items():
        # not ==: a half may be rounded either way, as the order of numpy's sums may change
        assert np.abs(preprocess_reference.pixels(case) - committed[name]).max() <= 0.5 + 1e-6, name


def test_the_eight_orientations_give_eight_different_references(
    committed: dict[str, NDArray[np.uint8]],
) -> None:
    for first, one in enumerate(TURNED):
        for other in TURNED[first + 1 :]:
            assert differences(committed[one], committed[other]).mean() > 10


# Pixels


@pytest.mark.parametrize("name", PALE)
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_lossless_colour_equals_the_reference(
    name: str, form: str, committed: dict[str, NDArray[np.uint8]]
) -> None:
    case = CASES[name]
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    data = encoded(case.samples, form, orientation_of(case), **options)
    assert_lossless(data, case, committed[name])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(
    "name", [*TURNED, "odd-small-crop", "enlarged", "one-pixel", "thin", "flat", "grey", "large"]
)
def test_jpeg_equals_the_reference(
    name: str, progressive: bool, committed: dict[str, NDArray[np.uint8]]
) -> None:
    case = CASES[name]
    data = encoded(
        case.samples,
        "JPEG",
        orientation_of(case),
        quality=100,
        subsampling=0,
        progressive=progressive,
    )
    assert_jpeg(data, case, committed[name])


@pytest.mark.parametrize("name", ["grey", "grey-alpha"])
def test_grey_png_equals_the_reference(name: str, committed: dict[str, NDArray[np.uint8]]) -> None:
    data = encoded(CASES[name].samples, "PNG")
    assert Image.open(io.BytesIO(data)).mode == {"grey": "L", "grey-alpha": "LA"}[name]
    assert_lossless(data, CASES[name], committed[name])


def test_sixteen_bit_grey_is_divided_by_257_over_its_full_range(
    committed: dict[str, NDArray[np.uint8]],
) -> None:
    case = CASES["sixteen-bit"]
    assert (case.samples.min(), case.samples.max()) == (0, 65535)
    data = encoded(case.samples, "PNG")
    assert Image.open(io.BytesIO(data)).mode == "I;16"
    assert_lossless(data, case, committed["sixteen-bit"])


def test_sixteen_bit_grey_is_rounded_to_the_nearest_level() -> None:
    samples = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    levels = np.asarray(load(encoded(samples, "PNG"), WHOLE_SCALE))
    assert np.array_equal(levels[:, :, 0], np.rint(samples / 257))
    assert np.array_equal(levels[:, :, 0], levels[:, :, 2])


@pytest.mark.parametrize(("colour", "bands"), [(2, 3), (4, 2), (6, 4)])
def test_other_sixteen_bit_png_is_within_two_levels(colour: int, bands: int) -> None:
    kind = {2: "rgb", 3: "rgb", 4: "grey+alpha", 6: "rgba"}[colour]
    """Pillow keeps their high byte, up to a level less than a division by 257."""
    samples = np.random.default_rng(0).integers(0, 65536, (31, 40, bands), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    data = png(40, 31, 16, colour, zlib.compress(rows))
    case = Case(samples, kind)
    assert np.abs(decode(data, SMALL) - preprocess_reference.pixels(case)).max() <= 2


def test_one_bit_png_equals_the_reference(committed: dict[str, NDArray[np.uint8]]) -> None:
    data = encoded(CASES["one-bit"].samples > 0, "PNG")
    assert Image.open(io.BytesIO(data)).mode == "1"
    assert_lossless(data, CASES["one-bit"], committed["one-bit"])


def test_cmyk_jpeg_equals_the_reference(committed: dict[str, NDArray[np.uint8]]) -> None:
    case = CASES["cmyk"]
    height, width = case.samples.shape[:2]
    picture = Image.frombytes("CMYK", (width, height), case.samples.tobytes())
    data = encoded(picture, "JPEG", quality=100, subsampling=0)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert_jpeg(data, case, committed["cmyk"])


@pytest.mark.parametrize("whole_table", [True, False])
def test_transparent_colours_of_a_palette_lie_over_white(whole_table: bool) -> None:
    generator = np.random.default_rng(1)
    indices = (drawn(61, 45)[:, :, 0] // 32).astype(np.uint8)
    colours = generator.integers(0, 256, (8, 3), dtype=np.uint8)
    alphas = np.array([0, 40, 80, 255, 120, 160, 200, 240] if whole_table else [255] * 8, np.uint8)
    if not whole_table:
        alphas[3] = 0
    picture = Image.fromarray(indices)
    picture.putpalette(colours.tobytes())
    data = encoded(picture, "PNG", transparency=alphas.tobytes() if whole_table else 3)
    assert Image.open(io.BytesIO(data)).mode == "P"
    samples = np.concatenate([colours, alphas[:, None]], axis=-1)[indices]
    case = Case(samples, "rgba")
    assert_lossless(data, case, np.rint(preprocess_reference.pixels(case)).astype(np.uint8))


def test_a_transparent_colour_of_an_rgb_png_lies_over_white() -> None:
    samples = np.full((20, 20, 3), (10, 20, 30), np.uint8)
    samples[:, 10:] = (40, 50, 60)
    data = encoded(samples, "PNG", transparency=(10, 20, 30))
    pixels = np.asarray(load(data, WHOLE_SCALE))
    assert (pixels[0, 0].tolist(), pixels[0, 15].tolist()) == ([255] * 3, [40, 50, 60])


def test_first_frame_of_an_mpo_is_taken(committed: dict[str, NDArray[np.uint8]]) -> None:
    case = CASES["exif-1"]
    second = Image.fromarray(255 - case.samples)
    data = encoded(
        case.samples, "MPO", quality=100, subsampling=0, save_all=True, append_images=[second]
    )
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert_jpeg(data, case, committed["exif-1"])


@pytest.mark.parametrize(
    ("form", "options"), [("WEBP", {"lossless": True, "exact": True}), ("PNG", {})]
)
def test_first_frame_of_an_animation_is_taken(
    form: str, options: dict[str, bool], committed: dict[str, NDArray[np.uint8]]
) -> None:
    case = CASES["exif-1"]
    frames = [Image.fromarray(255 - case.samples), Image.fromarray(case.samples // 2)]
    data = encoded(case.samples, form, save_all=True, append_images=frames, duration=50, **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    assert_lossless(data, case, committed["exif-1"])


def test_lossy_webp_is_near_the_reference(committed: dict[str, NDArray[np.uint8]]) -> None:
    data = encoded(drawn(400, 320), "WEBP", quality=95)
    found = differences(decode(data, SMALL), committed["large"])
    assert found.mean() <= 1.5  # 4:2:0 and the limited range of its luma
    assert found.max() <= 8


def test_the_bytes_decide_the_format() -> None:
    samples = drawn(40, 30)
    for form in ("JPEG", "PNG", "WebP"):
        assert image_format(encoded(samples, form)) == form
    assert image_format(encoded(samples, "MPO")) == "JPEG"


def test_a_png_named_jpg_is_a_png(tmp_path: Path, committed: dict[str, NDArray[np.uint8]]) -> None:
    file = tmp_path / "cat.jpg"
    Image.fromarray(CASES["even"].samples).save(file, "PNG")
    assert_lossless(file.read_bytes(), CASES["even"], committed["even"])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_leaves_the_image_as_it_is_stored() -> None:
    samples = drawn(61, 45)
    plain = encoded(samples, "JPEG", quality=90)
    block = b"Exif\0\0MM\0*\0\0\0\x08\0\x05garbage"
    data = plain[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + plain[2:]
    assert np.array_equal(decode(data, SMALL), decode(plain, SMALL))


def test_unreadable_exif_does_not_transpose_the_image() -> None:
    samples = drawn(61, 45)
    text = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04six\0\0\0\0\0"
    for block in (b"Exif\0\0garbage", b"garbage", text):
        for form in ("PNG", "WEBP"):
            got = decode(encoded(samples, form, exif=block), SMALL)
            assert np.array_equal(got, decode(encoded(samples, form), SMALL)), (form, block)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_invalid_orientation_does_not_transpose_the_image(orientation: int) -> None:
    samples = drawn(61, 45)
    data = encoded(samples, "PNG", orientation)
    assert np.array_equal(decode(data, SMALL), decode(encoded(samples, "PNG"), SMALL))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_load_gives_the_whole_upright_image(orientation: int) -> None:
    samples = drawn(41, 30)
    got = np.asarray(load(encoded(samples, "PNG", orientation), WHOLE_SCALE))
    assert np.array_equal(got, preprocess_reference.upright(samples, orientation))


# Reduced JPEG


@pytest.mark.parametrize("orientation", [1, 2, 6, 7])
@pytest.mark.parametrize(
    ("width", "height", "crop_fraction", "scale"),
    [
        (400, 320, 0.875, 8),
        (403, 321, 0.875, 8),  # the last pixels of the reduced image overhang
        (399, 401, 1.0, 8),
        (203, 165, 1.0, 4),
        (101, 111, 0.9, 2),
        (49, 48, 1.0, 2),
        (47, 47, 1.0, 1),
    ],
)
def test_a_reduced_jpeg_equals_the_reference(
    width: int, height: int, crop_fraction: float, scale: int, orientation: int
) -> None:
    case = Case(drawn(width, height), "rgb", orientation, crop_fraction=crop_fraction)
    data = encoded(case.samples, "JPEG", orientation, quality=100, subsampling=0)
    reduced = load(data, case.size_px / crop_fraction)
    assert max(reduced.size) == -(-max(width, height) // scale)
    assert_jpeg(data, case, np.rint(preprocess_reference.pixels(case)).astype(np.uint8))


def test_a_jpeg_is_reduced_only_to_the_requested_side() -> None:
    data = encoded(drawn(320, 160), "JPEG")
    sizes = [load(data, shorter_px).size for shorter_px in (160, 81, 80, 41, 40, 20, 1)]
    full, half, quarter, eighth = (320, 160), (160, 80), (80, 40), (40, 20)
    assert sizes == [full, full, half, half, quarter, eighth, eighth]


def test_only_jpeg_is_reduced() -> None:
    assert load(encoded(drawn(320, 160), "PNG"), 8).size == (320, 160)


# Sizes and boxes


@pytest.mark.parametrize("crop_fraction", [1.0, 0.875, 0.95, 1 / 3, 0.01])
def test_a_uniform_colour_stays_uniform_to_the_borders_in_every_size(crop_fraction: float) -> None:
    colour = (13, 201, 90)
    preprocess = Preprocess(image_size_px=17, crop_fraction=crop_fraction)
    for width, height in [(1, 1), (1, 2), (2, 1), (2, 3), (7, 1), (17, 17), (33, 34), (1, 700)]:
        got = decode(encoded(np.full((height, width, 3), colour, np.uint8), "PNG"), preprocess)
        assert got.shape == (17, 17, 3)
        assert np.all(got == np.array(colour)), (width, height)


def test_crop_fraction_and_size_change_the_pixels() -> None:
    data = encoded(drawn(61, 45), "PNG")
    whole = decode(data, Preprocess(image_size_px=24, crop_fraction=1.0))
    assert differences(decode(data, SMALL), whole).mean() > 3
    assert decode(data, Preprocess(image_size_px=9, crop_fraction=1.0)).shape == (9, 9, 3)


# Refused files


TEXT = b"This is not an image, it is a text that continues for a while. " * 4


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", ImageMissing),
        (b"\0", ImageUndecodable),
        (TEXT, ImageUndecodable),
        (b"BM" + TEXT, ImageUndecodable),
        (b"BM", ImageUndecodable),
        (b"RIFF\x10\0\0\0WAVEfmt " + bytes(40), ImageUndecodable),
        (b"\0\0\0\x20ftypisom" + bytes(40), ImageUndecodable),
        (b"\xff\xd8\xff", ImageUndecodable),
        (b"\xff\xd8\xff\xe0" + TEXT, ImageUndecodable),
        (b"\x89PNG\r\n\x1a\n", ImageUndecodable),
        (b"\x89PNG\r\n\x1a\n" + TEXT, ImageUndecodable),
        (b"RIFF\x10\0\0\0WEBP", ImageUndecodable),
        (b"RIFF\x10\0\0\0WEBPVP8 " + TEXT, ImageUndecodable),
        (b"\0\0\0\x20ftypavif" + bytes(40), FormatUnsupported),
        (b"\0\0\0\x20ftypheic" + bytes(40), FormatUnsupported),
        (b"\0\0\0\x20ftypmif1" + bytes(40), FormatUnsupported),
    ],
)
def test_bytes_that_are_not_a_supported_image_are_refused(
    data: bytes, error: type[LabradorError]
) -> None:
    with pytest.raises(error) as caught:
        decode(data, SMALL)
    assert type(caught.value) is error
    assert "This is" not in str(caught.value)  # no text from the client


@pytest.mark.parametrize("form", ["GIF", "TIFF", "BMP"])
def test_a_known_unsupported_format_is_named(form: str) -> None:
    with pytest.raises(FormatUnsupported, match=f"is {form}; use JPEG, PNG or WebP"):
        decode(encoded(drawn(40, 30), form), SMALL)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        *((magic + bytes(40), "GIF") for magic in (b"GIF87a", b"GIF89a")),
        *((magic + bytes(40), "TIFF") for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
        (b"BM\1\2\3\4" + bytes(4) + b"\x36\0\0\0", "BMP"),
        *((b"\1\2\3\4ftyp" + brand, "AVIF") for brand in (b"avif", b"avis")),
        *(
            (b"\1\2\3\4ftyp" + brand.encode(), "HEIC")
            for brand in ["heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"]
        ),
    ],
)
def test_each_unsupported_format_is_recognised_by_its_first_bytes(start: bytes, name: str) -> None:
    with pytest.raises(FormatUnsupported) as caught:
        image_format(start)
    assert str(caught.value).startswith(f"the image is {name}; ")


@pytest.mark.parametrize(
    ("start", "advice"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC; convert it to JPEG first (on an iPhone: Settings > Camera"),
        (b"\0\0\0\x18ftypavif", "AVIF; convert it to JPEG first"),
        (b"GIF89a", "GIF; use JPEG, PNG or WebP"),
    ],
)
def test_the_error_says_what_to_do_about_the_format(start: bytes, advice: str) -> None:
    with pytest.raises(FormatUnsupported, match=re.escape(f"the image is {advice}")):
        image_format(start)


@pytest.mark.parametrize(
    "start",
    [
        b"RIFF\x10\0\0\0WAVE",
        b"RIFX\x10\0\0\0WEBP",
        b"BM\1\2\3\4\0\0\0\1",
        b"MB\1\2\3\4" + bytes(40),
        b"\1\2\3\4ftypisom",
        b"\1\2\3\4fypeheic",
    ],
)
def test_a_partial_signature_is_not_recognised(start: bytes) -> None:
    with pytest.raises(ImageUndecodable) as caught:
        image_format(start)
    assert str(caught.value) == "the bytes are not a JPEG, PNG or WebP image"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the image has no bytes"),
        (b"RIFF\x10\0\0\0WEBP" + TEXT, "the WebP image has no readable header"),
        (png(40, 30, 8, 2, b"no pixels"), "the PNG image is damaged or incomplete"),
        (encoded(drawn(40, 30), "JPEG")[:400], "the JPEG image is damaged"),
        (encoded(drawn(40, 30), "JPEG")[:-80], "the JPEG image is damaged or incomplete"),
    ],
)
def test_the_error_says_what_is_wrong_with_the_image(data: bytes, message: str) -> None:
    with pytest.raises(LabradorError) as caught:
        decode(data, SMALL)
    assert str(caught.value) == message


# Truncation

TRUNCATED = {
    "baseline": encoded(drawn(40, 30, fine=True), "JPEG", quality=90),
    "baseline-444": encoded(drawn(41, 31), "JPEG", 6, quality=95, subsampling=0),
    "baseline-grey": encoded(drawn(40, 30)[:, :, 2], "JPEG", quality=90),
    "restarts": encoded(drawn(61, 45), "JPEG", quality=80, restart_marker_rows=1),
    "progressive": encoded(drawn(40, 30), "JPEG", quality=90, progressive=True),
    "png": encoded(drawn(40, 30), "PNG"),
    "webp": encoded(drawn(40, 30), "WEBP", quality=90),
    "webp-lossless": encoded(drawn(40, 30), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("shorter_px", [1, WHOLE_SCALE])
def test_a_truncated_file_is_refused_or_has_lost_no_pixel(name: str, shorter_px: float) -> None:
    data = TRUNCATED[name]
    whole = load(data, shorter_px).tobytes()
    accepted = []
    for cut in sorted({*range(12, len(data), 7), *range(len(data) * 3 // 4, len(data))}):
        try:
            image = load(data[:cut], shorter_px)
        except ImageUndecodable:
            continue
        accepted.append(cut)
        assert image.tobytes() == whole, f"cut at {cut} of {len(data)}"
    assert not accepted or accepted[0] > len(data) - 40  # nearly complete


@pytest.mark.parametrize("name", ["progressive", "webp", "webp-lossless", "restarts"])
def test_a_file_that_cannot_be_known_to_be_complete_is_refused_from_the_last_byte_on(
    name: str,
) -> None:
    for lost in (1, 2):
        with pytest.raises(ImageUndecodable):
            load(TRUNCATED[name][:-lost], WHOLE_SCALE)


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize(
    "data",
    [
        encoded(drawn(61, 45), "JPEG"),
        encoded(drawn(61, 45), "JPEG", 6, quality=95, subsampling=0),
        encoded(drawn(61, 45)[:, :, 2], "JPEG"),
        encoded(Image.fromarray(drawn(61, 45)).convert("CMYK"), "JPEG"),
        encoded(drawn(400, 321), "JPEG", 8),
    ],
    ids=["4:2:0", "turned", "grey", "cmyk", "reduced"],
)
def test_a_baseline_jpeg_without_its_end_marker_equals_the_complete_one(
    data: bytes, lost: int
) -> None:
    assert np.array_equal(decode(data[:-lost], SMALL), decode(data, SMALL))


def test_a_thumbnail_in_a_jpeg_does_not_hide_that_only_its_end_marker_is_lost() -> None:
    """The thumbnail has its own scan, with three colour components; the image's scan has one."""
    plain = encoded(drawn(61, 45)[:, :, 2], "JPEG")
    thumbnail = b"Exif\0\0" + encoded(drawn(16, 12), "JPEG")
    block = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = plain[:2] + block + plain[2:]
    assert np.array_equal(decode(whole[:-2], SMALL), decode(plain, SMALL))


def test_an_mpo_is_reduced_and_repaired_like_a_jpeg() -> None:
    frames = [Image.fromarray(drawn(width, 160)) for width in (320, 240)]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert load(data, 20).size == (40, 20)
    second = data.index(b"\xff\xd8\xff", 1000)
    first_alone = data[:second].rstrip(b"\0")
    assert Image.open(io.BytesIO(first_alone)).format == "MPO"
    assert first_alone.endswith(b"\xff\xd9")
    assert np.array_equal(decode(first_alone[:-2], SMALL), decode(data, SMALL))


def test_a_jpeg_that_lost_the_scans_of_its_colours_is_refused() -> None:
    planes = [drawn(64, 48)[:, :, band] for band in range(3)]
    data, ends = jpeg_in_three_scans(planes)
    assert np.ptp(np.asarray(load(data, WHOLE_SCALE)), axis=(0, 1)).min() > 50  # it has colours
    for end in ends[:2]:
        for cut in range(end - 2, end + 3):
            with pytest.raises(ImageUndecodable):
                load(data[:cut], WHOLE_SCALE)


# HEIC and AVIF, which training reads and the service refuses

PHONE: dict[str, Callable[..., bytes]] = {"HEIC": heic, "AVIF": avif}


@pytest.mark.parametrize("form", PHONE)
def test_what_phones_save_is_read_only_where_it_is_asked_for(form: str) -> None:
    data = PHONE[form](drawn(64, 48))
    assert image_format(data, TRAINING_FORMATS) == form
    plain = decode(encoded(drawn(64, 48), "PNG"), SMALL)
    assert differences(decode(data, SMALL, formats=TRAINING_FORMATS), plain).mean() < 6
    with pytest.raises(FormatUnsupported):
        decode(data, SMALL)
    with pytest.raises(FormatUnsupported):
        load(data, 24)


@pytest.mark.parametrize("form", PHONE)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_phones_save_is_turned_upright_once(form: str, orientation: int) -> None:
    data = PHONE[form](drawn(64, 48), orientation)
    upright = preprocess_reference.upright(drawn(64, 48), orientation)
    whole = load(data, WHOLE_SCALE, formats=TRAINING_FORMATS)
    assert differences(np.asarray(whole), upright.astype(np.uint8)).mean() < 6
    expected = decode(encoded(upright, "PNG"), SMALL)
    assert differences(decode(data, SMALL, formats=TRAINING_FORMATS), expected).mean() < 6


def test_the_container_of_a_heic_says_how_it_is_turned_not_its_exif() -> None:
    """By ISO 23008-12 only the transformations of the container apply."""
    data = heic(drawn(64, 48), 6)
    turn = data.index(b"irot")
    unturned = data[: turn + 4] + b"\0" + data[turn + 5 :]
    whole = load(unturned, WHOLE_SCALE, formats=TRAINING_FORMATS)
    assert differences(np.asarray(whole), drawn(64, 48)).mean() < 6


@pytest.mark.parametrize("form", PHONE)
def test_transparency_in_what_phones_save_is_over_white(form: str) -> None:
    clear = np.dstack([drawn(64, 48), np.zeros((48, 64), np.uint8)])
    assert np.asarray(load(PHONE[form](clear), 48, formats=TRAINING_FORMATS)).min() > 250


@pytest.mark.parametrize("form", PHONE)
def test_a_truncated_file_of_a_phone_is_refused(form: str) -> None:
    data = PHONE[form](drawn(64, 48))
    assert load(data, 24, formats=TRAINING_FORMATS).size == (64, 48)
    for cut in {*range(12, len(data), 31), len(data) - 1}:
        with pytest.raises(ImageUndecodable):
            load(data[:cut], 24, formats=TRAINING_FORMATS)


@pytest.mark.parametrize("form", PHONE)
def test_the_limit_on_pixels_is_also_that_of_what_phones_save(form: str) -> None:
    data = PHONE[form](drawn(125, 80))
    assert load(data, 24, 0.01, TRAINING_FORMATS).size == (125, 80)
    with pytest.raises(ImageTooLarge, match="125 x 80 pixels"):
        load(data, 24, 0.009999, TRAINING_FORMATS)


@pytest.mark.parametrize(
    ("others", "name"),
    [
        ((b"mif1", b"avif"), "AVIF"),
        ((b"mif1", b"heic"), "HEIC"),
        ((b"avis",), "AVIF"),
        ((), "HEIC"),
    ],
)
def test_a_container_for_any_codec_is_told_apart_by_its_other_brands(
    others: tuple[bytes, ...], name: str
) -> None:
    listed = b"".join(others)
    start = (16 + len(listed)).to_bytes(4, "big") + b"ftypmif1\0\0\0\0" + listed + b"avif"
    assert image_format(start, TRAINING_FORMATS) == name


def run_script(script: str, data: bytes) -> subprocess.CompletedProcess[bytes]:
    """In a fresh interpreter, because other tests have registered the decoder of HEIC here."""
    return subprocess.run(
        [sys.executable, "-c", script],
        input=data,
        capture_output=True,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )


def test_the_bytes_of_a_stranger_never_load_the_decoder_of_heic() -> None:
    script = """
import sys
from models.errors import FormatUnsupported
from models.preprocess import load
try:
    load(sys.stdin.buffer.read(), 24)
except FormatUnsupported:
    sys.exit("pillow_heif" in sys.modules)
"""
    assert run_script(script, heic(drawn(64, 48))).returncode == 0


def test_without_pillow_heif_the_error_says_what_to_install_or_how_to_convert() -> None:
    script = """
import sys
sys.modules["pillow_heif"] = None  # as if it were not installed
from models.preprocess import TRAINING_FORMATS, load
load(sys.stdin.buffer.read(), 24, formats=TRAINING_FORMATS)
"""
    error = run_script(script, heic(drawn(64, 48))).stderr.decode()
    assert "FormatUnsupported: the image is HEIC, which needs pillow-heif" in error
    assert "pip install '.[heif]'" in error
    assert "sips -s format jpeg IMG.HEIC --out IMG.jpg" in error and "magick IMG.HEIC" in error


# Limits


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_the_limit_is_on_pixels_and_inclusive(form: str) -> None:
    data = encoded(drawn(125, 80), form)
    assert decode(data, SMALL, megapixels_max=0.01).shape == (24, 24, 3)
    with pytest.raises(ImageTooLarge, match=r"125 x 80 pixels, more than the limit of 0\.009999"):
        decode(data, SMALL, megapixels_max=0.009999)
    with pytest.raises(ImageTooLarge):
        load(data, 24, megapixels_max=0.009999)


def test_the_default_limit_is_89_megapixels() -> None:
    with pytest.raises(ImageTooLarge, match="more than the limit of 89 megapixels"):
        decode(png(1, 89_000_001, 1, 0, b""), SMALL)
    with pytest.raises(ImageTooLarge, match="more than the limit of 89 megapixels"):
        load(png(1, 89_000_001, 1, 0, b""), 24)
    with pytest.raises(ImageTooLarge, match="^the image has more than the limit of 89 megapixels$"):
        load(png(20_000, 20_000, 1, 0, b""), 24)  # Pillow itself refuses it


def bombs() -> dict[str, bytes]:
    """Files whose header claims more than 25 megapixels, which one of them really has."""
    jpeg = encoded(drawn(40, 30), "JPEG")
    found = {}
    for side in (5001, 9470, 12000, 16383, 30000):  # Pillow warns above 9459 and refuses at 13378
        found[f"{side}.jpg"] = jpeg_claiming(jpeg, side, side)
        found[f"{side}.png"] = png(side, side, 8, 6, zlib.compress(bytes(1000)))
        if side <= 16383:
            found[f"{side}.webp"] = webp_claiming(side, side)
        found[f"{side}-animated.webp"] = animated_webp_claiming(side, side)
    zeros = zlib.compressobj(1)
    packed = b"".join(zeros.compress(bytes(5001 * 3 + 1)) for _ in range(5001)) + zeros.flush()
    found["real.png"] = png(5001, 5001, 8, 2, packed)
    return found


BOMB_SCRIPT = """
import resource, sys
from pathlib import Path
from models.errors import ImageTooLarge
from models.manifest import Preprocess
from models.preprocess import decode

def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

folder = Path(sys.argv[1])
small = Preprocess(image_size_px=24, crop_fraction=1.0)
for form in ("jpg", "png", "webp"):
    decode((folder / f"harmless.{form}").read_bytes(), small)
data = {path.name: path.read_bytes() for path in sorted(folder.glob("[0-9r]*"))}
for name, content in data.items():
    before = peak_kib()
    try:
        decode(content, small, megapixels_max=25)
    except ImageTooLarge:
        grown = (peak_kib() - before) // 1024
        print(name, "too large", "cheap" if grown < 20 else f"{grown} MiB")
    else:
        print(name, "decoded")
"""


@pytest.mark.parametrize("action", ["error", "ignore", "default"])
def test_bombs_are_refused_by_their_header_and_take_no_memory(action: str, tmp_path: Path) -> None:
    for form, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")):
        (tmp_path / f"harmless.{suffix}").write_bytes(encoded(drawn(40, 30), form))
    names = []
    for name, data in bombs().items():
        (tmp_path / name).write_bytes(data)
        names.append(name)
    done = subprocess.run(
        [sys.executable, "-W", action, "-c", BOMB_SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} too large cheap" for name in sorted(names)]


# Anything


@pytest.mark.parametrize("action", ["error", "ignore"])
@pytest.mark.parametrize(
    "data",
    [
        encoded(drawn(40, 30), "JPEG", 6),
        encoded(drawn(40, 30), "JPEG", progressive=True),
        encoded(drawn(40, 30), "JPEG", restart_marker_rows=1),
        encoded(Image.fromarray(drawn(40, 30)).convert("CMYK"), "JPEG"),
        encoded(drawn(40, 30), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 30))]),
        encoded(drawn(40, 30), "PNG", 6),
        encoded(Image.fromarray(drawn(40, 30)).quantize(16), "PNG", transparency=bytes(range(16))),
        encoded(CASES["sixteen-bit"].samples, "PNG"),
        encoded(drawn(40, 30), "WEBP", 6, quality=90),
        encoded(drawn(40, 30), "WEBP", lossless=True),
        encoded(drawn(40, 30), "WEBP", save_all=True, append_images=[Image.new("RGB", (40, 30))]),
    ],
    ids=[
        *("baseline", "progressive", "restarts", "cmyk", "mpo", "png", "palette", "sixteen-bit"),
        *("webp", "webp-lossless", "webp-animated"),
    ],
)
def test_mutated_files_give_a_square_or_a_labrador_error(data: bytes, action: str) -> None:
    generator = random.Random(7)
    outcomes = {"square": 0, "refused": 0}
    for _ in range(80):
        mutated = bytearray(data)
        for _ in range(generator.choice([1, 1, 2, 5, 20])):
            # headers matter most: half of the changes are within the first bytes
            end = generator.choice([min(200, len(data)), len(data)])
            mutated[generator.randrange(3, end)] = generator.randrange(256)
        if generator.random() < 0.25:
            del mutated[generator.randrange(1, len(mutated)) :]
        hostile = bytes(mutated)
        if data[:4] == b"\x89PNG" and generator.random() < 0.8:
            hostile = png_with_right_checksums(hostile)
        with warnings.catch_warnings():
            warnings.simplefilter(action)  # type: ignore[arg-type]
            try:
                square = decode(hostile, SMALL, megapixels_max=1)
            except LabradorError as error:
                assert "\n" not in str(error)
                outcomes["refused"] += 1
            else:
                assert square.shape == (24, 24, 3)
                assert square.dtype == np.uint8
                outcomes["square"] += 1
    assert min(outcomes.values()) > 0  # both outcomes occur


@pytest.mark.parametrize("place", ["before the pixels", "after the pixels"])
def test_metadata_that_decompresses_to_fifty_megabytes_is_refused(place: str) -> None:
    data = encoded(drawn(40, 30), "PNG")
    text = png_chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(50_000_000), 9))
    at = 33 if place == "before the pixels" else len(data) - 12
    with pytest.raises(ImageUndecodable):
        decode(data[:at] + text + data[at:], SMALL)


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("size", [(60, 40), (40, 60), (40, 40)])
def test_the_box_is_what_the_network_sees_of_the_upright_picture(
    size: tuple[int, int], orientation: int | None
) -> None:
    width, height = size
    side = min(size) // 2
    left, top = (width - side) // 2, (height - side) // 2
    upright = Image.new("RGB", size, "blue")
    upright.paste("red", (left, top, left + side, top + side))
    lying = orientation in (5, 6, 7, 8)  # the box looks the same when it is mirrored
    stored = upright.transpose(Image.Transpose.TRANSPOSE) if lying else upright
    data = encoded(stored, "PNG", orientation)
    preprocess = Preprocess(image_size_px=20, crop_fraction=0.5)
    pixels, found = decode_with_box(data, preprocess)
    assert found == pytest.approx(
        (left / width, top / height, (left + side) / width, (top + side) / height), abs=1e-9
    )
    assert (pixels == (255, 0, 0)).all()
    np.testing.assert_array_equal(pixels, decode(data, preprocess))
