"""Unusual image files for tests."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pillow_heif import register_heif_opener


def encoded(
    samples: NDArray[Any] | Image.Image, form: str, orientation: int | None = None, **options: Any
) -> bytes:
    """The samples as a JPEG, PNG, … file. Two bands are grey and alpha, four are RGBA."""
    image = samples if isinstance(samples, Image.Image) else Image.fromarray(samples)
    if orientation is not None:
        options["exif"] = exif(orientation)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def heic(
    samples: NDArray[Any] | Image.Image, orientation: int | None = None, quality: int = 90
) -> bytes:
    """The samples as an iPhone saves them: turned by the container, and by EXIF as well."""
    register_heif_opener()
    block = exif(1 if orientation is None else orientation).tobytes()
    return encoded(samples, "HEIF", quality=quality, exif=block)


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, compressed: bytes) -> bytes:
    """A PNG from its header's fields and zlib data, whether they agree or not."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", compressed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_with_right_checksums(data: bytes) -> bytes:
    """The PNG with each complete chunk's checksum corrected."""
    fixed, at = data[:8], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        name, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        fixed += data[at : at + 8] + content + struct.pack(">I", zlib.crc32(name + content))
        at += 12 + length
    return fixed


def jpeg_claiming(data: bytes, width: int, height: int) -> bytes:
    """The baseline JPEG with this size in its header."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def jpeg_in_three_scans(planes: list[NDArray[np.uint8]]) -> tuple[bytes, list[int]]:
    """A baseline JPEG with one scan for each of Y, Cb, Cr `[h, w]`, and where each scan ends."""
    grey = [encoded(plane, "JPEG", quality=90) for plane in planes]
    scans = [data.index(b"\xff\xda") for data in grey]
    frame = grey[0].index(b"\xff\xc0")
    tables = frame + 2 + int.from_bytes(grey[0][frame + 2 : frame + 4], "big")
    height, width = planes[0].shape
    whole = grey[0][:frame] + b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3)
    whole += bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]) + grey[0][tables : scans[0]]
    ends = []
    for number, (data, start) in enumerate(zip(grey, scans, strict=True), start=1):
        whole += data[start : start + 5] + bytes([number]) + data[start + 6 : -2]
        ends.append(len(whole))
    return whole + b"\xff\xd9", ends


def webp_claiming(width: int, height: int) -> bytes:
    """A lossless WebP whose header claims a size up to 16384 x 16384."""
    body = b"\x2f" + struct.pack("<I", (width - 1) | ((height - 1) << 14)) + bytes(21)
    return b"RIFF" + struct.pack("<I", len(body) + 12) + b"WEBPVP8L" + _sized(body)


def animated_webp_claiming(width: int, height: int) -> bytes:
    """An animated WebP whose canvas claims a size; its one frame is 8 x 8."""
    still = encoded(np.zeros((8, 8, 3), np.uint8), "WEBP", lossless=True)
    side = struct.pack("<I", 7)[:3]
    frame = bytes(6) + side + side + bytes(4) + still[12:]
    canvas = struct.pack("<I", 2) + struct.pack("<I", width - 1)[:3]
    canvas += struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + _sized(canvas) + b"ANIM" + _sized(bytes(6)) + b"ANMF" + _sized(frame)
    return b"RIFF" + _sized(body)


def _sized(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body
