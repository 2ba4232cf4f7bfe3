import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from models.bundle import sha256
from models.errors import DataError
from testkit.image_sets import photo, put
from testkit.odd_images import encoded, heic
from training.data import file_scan
from training.data.contents import Contents
from training.data.datasets import Dataset
from training.data.perceptual_hash import perceptual_hash
from training.data.record import Record, Scan


def scanned(folder: Path, name: str, data: bytes) -> Record:
    (folder / name).write_bytes(data)
    (found,) = file_scan.scan(folder, [Record(name, ("cat",))], Contents())
    return found


def test_a_record_describes_its_file(tmp_path: Path) -> None:
    data = encoded(photo(0), "JPEG", quality=90)
    assert scanned(tmp_path, "a.jpeg", data) == Record(
        "a.jpeg",
        ("cat",),
        sha256=sha256(data),
        scan=Scan(
            size_bytes=len(data),
            format="JPEG",
            width_px=96,
            height_px=72,
            mode="RGB",
            orientation=1,
            perceptual=perceptual_hash(Image.open(io.BytesIO(data))),
            error=None,
        ),
    )


@pytest.mark.parametrize(
    ("name", "form", "mode", "lies"),
    [
        ("a.JPG", "JPEG", "L", False),
        ("a.jpg", "PNG", "RGBA", True),
        ("a.png", "WebP", "RGB", True),
        ("a.webp", "WebP", "RGB", False),
        ("a.png", "PNG", "P", False),
        ("a.data", "PNG", "1", False),
        ("a.Avif", "AVIF", "RGB", False),
        ("a.jpg", "AVIF", "RGB", True),
    ],
)
def test_format_and_mode_are_those_of_the_content(
    tmp_path: Path, name: str, form: str, mode: str, lies: bool
) -> None:
    found = scanned(tmp_path, name, encoded(photo(0).convert(mode), form))
    assert (found.scan.format, found.scan.mode, found.extension_is_wrong) == (form, mode, lies)
    assert found.scan.error is None


@pytest.mark.parametrize(
    ("name", "lies"), [("IMG_1.HEIC", False), ("a.heif", False), ("IMG_1.jpg", True)]
)
def test_a_heic_is_read_whatever_its_name(tmp_path: Path, name: str, lies: bool) -> None:
    stored = photo(1).transpose(Image.Transpose.ROTATE_90)
    found = scanned(tmp_path, name, heic(stored, 6))
    assert (found.scan.format, found.extension_is_wrong) == ("HEIC", lies)
    assert (found.scan.width_px, found.scan.height_px) == photo(1).size  # the decoder turns it
    assert (found.scan.error, found.scan.orientation) == (None, 1)
    expected, got = perceptual_hash(photo(1)), found.scan.perceptual
    assert expected is not None and got is not None
    assert (expected ^ got).bit_count() <= 2


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_orientation_is_found_and_the_hash_is_of_the_upright_image(
    tmp_path: Path, form: str, orientation: int
) -> None:
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}
    turns[8] = Image.Transpose.ROTATE_270
    upright = photo(1)
    stored = upright.transpose(turns[orientation]) if orientation in turns else upright
    found = scanned(tmp_path, "a.jpg", encoded(stored, form, orientation, quality=95))
    assert found.scan.orientation == orientation
    assert (found.scan.width_px, found.scan.height_px) == stored.size
    expected, got = perceptual_hash(upright), found.scan.perceptual
    assert expected is not None and got is not None
    assert (expected ^ got).bit_count() <= 2


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "the image has no bytes"),
        (encoded(photo(0), "GIF"), "the image is GIF; use JPEG, PNG, WebP, HEIC or AVIF"),
        (b"hello", "the bytes are not a JPEG, PNG, WebP, HEIC or AVIF image"),
        (encoded(photo(0), "JPEG")[:900], "the JPEG image is damaged or incomplete"),
        (encoded(photo(0), "PNG")[:900], "the PNG image is damaged or incomplete"),
    ],
)
def test_a_file_that_cannot_be_used_has_the_reason_and_still_a_hash(
    tmp_path: Path, data: bytes, error: str
) -> None:
    found = scanned(tmp_path, "a.jpg", data)
    assert (found.sha256, found.scan) == (sha256(data), Scan(len(data), error=error))
    assert not found.extension_is_wrong


def test_records_are_in_order_and_one_bad_file_stops_nothing(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(12)]
    for number, name in enumerate(names):
        photo(number).save(tmp_path / name)
    (tmp_path / names[5]).unlink()
    (tmp_path / "folder.png").mkdir()
    records = [Record(name, (name,)) for name in (*names, "folder.png")]
    found = file_scan.scan(tmp_path, records, Contents())
    assert [(r.file, r.labels) for r in found] == [(r.file, r.labels) for r in records]
    errors = {record.file: record.scan.error for record in found if record.scan.error}
    assert {record.file for record in found if not record.sha256} == errors.keys()
    assert errors == {"5.png": "No such file or directory", "folder.png": "Is a directory"}


def test_bad_files_are_refused_with_the_reason_and_what_to_do(tmp_path: Path) -> None:
    good = scanned(tmp_path, "good.jpg", encoded(photo(0), "JPEG"))
    file_scan.refuse_bad(tmp_path, [good], "pets")
    bad = [scanned(tmp_path, f"bad-{number}.jpg", b"hello") for number in range(7)]
    with pytest.raises(DataError) as caught:
        file_scan.refuse_bad(tmp_path, [good, *bad], "my data --pattern '(.)'")
    message = str(caught.value)
    assert message.startswith(f"7 images cannot be used: {tmp_path / 'bad-0.jpg'}: the bytes are")
    assert "bad-4.jpg" in message and "bad-5.jpg" not in message
    assert "`python -m training inspect my data --pattern '(.)' --out AUDIT`" in message
    assert message.endswith("--quarantine AUDIT/quarantine.csv")


# Only hashes, for a resumed run.


def dataset(folder: Path, count: int) -> Dataset:
    put(folder, *(f"{number:02}.jpg" for number in range(count)))
    records = tuple(Record(f"{number:02}.jpg", ("cat",), "valid") for number in range(count))
    return Dataset(folder, records, ("cat",), "single")


def test_hashes_are_of_the_files_bytes_in_order(tmp_path: Path) -> None:
    data = dataset(tmp_path, 20)
    assert file_scan.hashed(data, Contents()) == [
        replace(record, sha256=sha256((tmp_path / record.file).read_bytes()))
        for record in data.records
    ]


def test_of_many_missing_files_five_are_named_and_all_counted(tmp_path: Path) -> None:
    data = dataset(tmp_path, 13)
    for record in data.records[1:]:
        (tmp_path / record.file).unlink()
    with pytest.raises(DataError) as caught:
        file_scan.hashed(data, Contents())
    message = str(caught.value)
    assert message.startswith("12 images cannot be used: ")
    assert sum(str(tmp_path / record.file) in message for record in data.records) == 5
    assert "No such file" in message and "\n" not in message


@pytest.mark.parametrize("step", ["scan", "hashed"])
def test_what_is_read_is_kept_for_decoding(tmp_path: Path, step: str) -> None:
    data, contents = dataset(tmp_path, 3), Contents()
    looked = (
        file_scan.scan(tmp_path, data.records, contents)
        if step == "scan"
        else file_scan.hashed(data, contents)
    )
    for record in looked:
        (tmp_path / record.file).unlink()
        assert sha256(contents.take(tmp_path / record.file)) == record.sha256
