import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from models.bundle import sha256
from models.errors import DataError
from testkit.image_sets import photo
from testkit.odd_images import encoded
from training.data import file_scan
from training.data.file_scan import Record, perceptual_hash
from training.data.near_duplicates import DISTANCE


def record(folder: Path, name: str, data: bytes) -> Record:
    (folder / name).write_bytes(data)
    (found,) = file_scan.survey([folder / name])
    return found


def distance(first: Image.Image, second: Image.Image) -> int:
    hashes = perceptual_hash(first), perceptual_hash(second)
    assert hashes[0] is not None and hashes[1] is not None
    return (hashes[0] ^ hashes[1]).bit_count()


def again(picture: Image.Image, quality: int = 95) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def test_a_record_says_what_a_file_is(tmp_path: Path) -> None:
    data = encoded(photo(0), "JPEG", quality=90)
    found = record(tmp_path, "a.jpeg", data)
    assert found == Record(
        tmp_path / "a.jpeg",
        sha256=sha256(data),
        size_bytes=len(data),
        format="JPEG",
        width_px=96,
        height_px=72,
        mode="RGB",
        turn=1,
        perceptual=perceptual_hash(Image.open(io.BytesIO(data))),
        error=None,
    )
    assert not found.extension_lies


@pytest.mark.parametrize(
    ("name", "form", "mode", "lies"),
    [
        ("a.JPG", "JPEG", "L", False),
        ("a.jpg", "PNG", "RGBA", True),
        ("a.png", "WEBP", "RGB", True),
        ("a.webp", "WEBP", "RGB", False),
        ("a.png", "PNG", "P", False),
        ("a.data", "PNG", "1", False),
    ],
)
def test_format_and_mode_are_told_by_the_content(
    tmp_path: Path, name: str, form: str, mode: str, lies: bool
) -> None:
    found = record(tmp_path, name, encoded(photo(0).convert(mode), form))
    assert (found.format, found.mode, found.extension_lies) == (form, mode, lies)
    assert found.error is None


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turn_is_found_and_the_hash_is_of_the_upright_picture(
    tmp_path: Path, form: str, orientation: int
) -> None:
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}
    turns[8] = Image.Transpose.ROTATE_270
    upright = photo(1)
    stored = upright.transpose(turns[orientation]) if orientation in turns else upright
    found = record(tmp_path, "a.jpg", encoded(stored, form, orientation, quality=95))
    assert found.turn == orientation
    assert (found.width_px, found.height_px) == stored.size
    expected, got = perceptual_hash(upright), found.perceptual
    assert expected is not None and got is not None
    assert (expected ^ got).bit_count() <= 2


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "the image has no bytes"),
        (encoded(photo(0), "GIF"), "the image is a GIF; send JPEG, PNG or WebP"),
        (b"hello", "the bytes are no JPEG, PNG or WebP image"),
        (encoded(photo(0), "JPEG")[:900], "the JPEG image is damaged or incomplete"),
        (encoded(photo(0), "PNG")[:900], "the PNG image is damaged or incomplete"),
    ],
)
def test_a_file_that_cannot_be_used_has_the_reason_and_still_a_hash(
    tmp_path: Path, data: bytes, error: str
) -> None:
    found = record(tmp_path, "a.jpg", data)
    assert (found.error, found.sha256, found.size_bytes) == (error, sha256(data), len(data))
    assert found.perceptual is None and not found.extension_lies


def test_records_are_in_order_and_one_bad_file_stops_nothing(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(12)]
    for number, file in enumerate(files):
        photo(number).save(file)
    files[5].unlink()
    (tmp_path / "folder.png").mkdir()
    found = file_scan.survey([*files, tmp_path / "folder.png"])
    assert [entry.file for entry in found] == [*files, tmp_path / "folder.png"]
    errors = {entry.file.name: entry.error for entry in found if entry.error}
    assert errors == {"5.png": "No such file or directory", "folder.png": "Is a directory"}


def test_bad_files_are_refused_with_the_reason_and_the_way_out(tmp_path: Path) -> None:
    good = record(tmp_path, "good.jpg", encoded(photo(0), "JPEG"))
    file_scan.refuse_bad([good], "pets")
    bad = [record(tmp_path, f"bad-{number}.jpg", b"hello") for number in range(7)]
    with pytest.raises(DataError) as caught:
        file_scan.refuse_bad([good, *bad], "my data --pattern '(.)'")
    message = str(caught.value)
    assert message.startswith(f"7 images cannot be used: {tmp_path / 'bad-0.jpg'}: the bytes are")
    assert "bad-4.jpg" in message and "bad-5.jpg" not in message
    assert "`python -m training inspect my data --pattern '(.)' --out AUDIT`" in message
    assert message.endswith("--quarantine AUDIT/quarantine.csv")


# The perceptual hash.


@pytest.mark.parametrize("seed", range(5))
def test_the_hash_is_the_signs_of_the_lowest_frequencies_about_their_median(seed: int) -> None:
    """Against SciPy's transform in floating point; its ties cannot be told."""
    picture = photo(seed)
    grey = picture.convert("L").resize((32, 32), Image.Resampling.BILINEAR)
    waves = dctn(np.asarray(grey, np.float64), norm="ortho")[:8, :8].ravel()[1:]
    bits = "".join("01"[int(wave > np.median(waves))] for wave in waves)
    assert perceptual_hash(picture) == int(bits + "0", 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.resize((p.width // 2, p.height // 2), Image.Resampling.LANCZOS),
        lambda p: p.resize((p.width * 2, p.height * 2)),
        lambda p: again(p, quality=60),
        lambda p: ImageEnhance.Brightness(p).enhance(0.9),
        lambda p: ImageEnhance.Brightness(p).enhance(1.1),
        lambda p: p.convert("L"),
        lambda p: p.crop((2, 2, p.width - 2, p.height - 2)),
    ],
)
def test_a_picture_that_is_nearly_the_same_has_nearly_the_same_hash(
    change: Callable[[Image.Image], Image.Image],
) -> None:
    for seed in range(10):
        picture = photo(seed, (240, 180))
        assert distance(picture, change(picture)) <= DISTANCE


def test_other_pictures_have_other_hashes() -> None:
    pictures = [photo(seed) for seed in range(40)]
    distances = [
        distance(first, second)
        for number, first in enumerate(pictures)
        for second in pictures[:number]
    ]
    assert min(distances) > 2 * DISTANCE
    assert np.mean(distances) == pytest.approx(31.5, abs=1)


@pytest.mark.parametrize("kind", ["flat", "noise", "halves", "ramp"])
def test_a_picture_too_plain_to_tell_has_no_hash(kind: str) -> None:
    row = np.arange(96)
    pixels = {
        "flat": np.full((72, 96), 90),
        "noise": np.random.default_rng(0).normal(120, 8, (72, 96)),
        "halves": np.tile(row // 48 * 200, (72, 1)),
        "ramp": np.tile(row * 2, (72, 1)),
    }[kind]
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    assert perceptual_hash(again(picture)) is None
