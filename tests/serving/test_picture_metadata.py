import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from models.errors import LabradorError
from models.preprocess import load
from serving.capture.picture_metadata import without_metadata
from testkit import image_sets, odd_images

SECRET = b"at 52.5200 N 13.4050 E by Ada"


def private_exif(orientation: int) -> Image.Exif:
    """The orientation, a position, the camera's owner, and a thumbnail that shows more."""
    block = odd_images.exif(orientation)
    block[0x013B] = SECRET.decode()  # Artist
    block.get_ifd(0x8825)[1] = "N"  # GPSLatitudeRef
    block.get_ifd(0x8825)[29] = SECRET.decode()  # GPSDateStamp: any text will do
    return block


def jpeg(orientation: int = 1, **options: Any) -> bytes:
    photo = image_sets.photo(1)
    data = odd_images.encoded(
        photo, "JPEG", exif=private_exif(orientation), comment=SECRET, xmp=SECRET, **options
    )
    return data + b"\xff\xd8" + SECRET  # what phones append: another picture, a film


def png(orientation: int = 1, mode: str = "RGB") -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", SECRET.decode())
    text.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    photo = image_sets.photo(2).convert(mode)
    data = odd_images.encoded(photo, "PNG", exif=private_exif(orientation), pnginfo=text)
    return data[:-12] + odd_images.png_chunk(b"eRIk", SECRET) + data[-12:] + SECRET


def ycck() -> bytes:
    """A JPEG in whose four bands only Adobe's segment tells the colours from CMYK."""
    data = bytearray(odd_images.encoded(image_sets.photo(4).convert("CMYK"), "JPEG"))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def webp(orientation: int = 1, **options: Any) -> bytes:
    photo = image_sets.photo(3)
    return odd_images.encoded(photo, "WEBP", exif=private_exif(orientation), xmp=SECRET, **options)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("make", [jpeg, png, webp])
def test_the_metadata_is_gone_and_the_picture_stays_as_it_was(
    make: Callable[[int], bytes], orientation: int
) -> None:
    data = make(orientation)
    assert SECRET in data
    cleaned = without_metadata(data)
    assert SECRET not in cleaned
    found = dict(opened(cleaned).getexif())
    assert found == ({} if orientation == 1 else {0x0112: orientation})
    assert opened(cleaned).getexif().get_ifd(0x8825) == {}
    assert load(cleaned, 32).tobytes() == load(data, 32).tobytes()


@pytest.mark.parametrize(
    "data",
    [
        jpeg(progressive=True),
        jpeg(restart_marker_blocks=1),
        jpeg(icc_profile=b"a profile"),
        jpeg()[: jpeg().rindex(b"\xff\xd9")],  # its end is lost, which the decoder repairs
        odd_images.encoded(image_sets.photo(4).convert("CMYK"), "JPEG"),
        ycck(),
        odd_images.encoded(image_sets.photo(4).convert("L"), "JPEG"),
        odd_images.jpeg_in_three_scans([np.arange(64, dtype=np.uint8).reshape(8, 8)] * 3)[0],
        png(mode="P"),
        png(mode="LA"),
        png(mode="I;16"),
        webp(lossless=True),
        webp(icc_profile=b"a profile"),
        odd_images.encoded(image_sets.photo(3), "WEBP"),
        odd_images.encoded(image_sets.photo(3).convert("RGBA"), "WEBP"),
        odd_images.encoded(
            image_sets.photo(3), "WEBP", save_all=True, append_images=[image_sets.photo(5)]
        ),
        odd_images.encoded(
            image_sets.photo(3), "PNG", save_all=True, append_images=[image_sets.photo(5)]
        ),
    ],
    ids=range(17),
)
def test_unusual_files_decode_to_the_same_pixels(data: bytes) -> None:
    cleaned = without_metadata(data)
    assert load(cleaned, 32).tobytes() == load(data, 32).tobytes()
    assert SECRET not in cleaned
    assert cleaned == without_metadata(cleaned)


def test_a_thumbnail_in_the_header_is_left_out() -> None:
    data = odd_images.encoded(image_sets.photo(6), "JPEG")
    thumbnail = bytes([2, 1, *b"SECRET"])  # 2 x 1 pixels of 3 bytes
    assert data[2:4] == b"\xff\xe0"
    given = data[:4] + (22).to_bytes(2, "big") + data[6:18] + thumbnail + data[20:]
    assert opened(given).size == opened(data).size
    assert without_metadata(given) == data


@pytest.mark.parametrize(
    "data",
    [
        jpeg(progressive=True)[: jpeg(progressive=True).rindex(b"\xff\xda") + 5],
        jpeg()[:20] + b"between segments" + jpeg()[20:],
        jpeg()[:2] + b"\xff\xfe\x00\x01" + jpeg()[2:],  # a length that does not count itself
        png()[:-60],
    ],
    ids=range(4),
)
def test_a_file_whose_parts_cannot_be_told_apart_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="at byte"):
        without_metadata(data)


def test_a_file_without_metadata_stays_as_it_is() -> None:
    for form in ("JPEG", "PNG", "WEBP"):
        data = odd_images.encoded(image_sets.photo(7), form)
        assert without_metadata(data) == data


def test_of_damaged_files_none_is_changed_into_another_picture() -> None:
    random = np.random.default_rng(8)
    small = image_sets.photo(8, (24, 16))
    outcomes = {"kept": 0, "refused": 0}
    for form in ("JPEG", "PNG", "WEBP"):
        whole = odd_images.encoded(small, form, exif=private_exif(6))
        for _ in range(100):
            damaged = bytearray(whole)
            for at in random.integers(12, len(whole), 2):
                damaged[at] = random.integers(256)
            try:
                before = load(bytes(damaged), 16)
            except LabradorError:
                continue  # it has no answer, and so is not captured
            try:
                cleaned = without_metadata(bytes(damaged))
            except (ValueError, LabradorError):
                outcomes["refused"] += 1
            else:
                outcomes["kept"] += 1
                assert load(cleaned, 16).tobytes() == before.tobytes()
    assert outcomes["kept"] > 10 * outcomes["refused"] > 0
