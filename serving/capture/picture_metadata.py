"""Takes the metadata out of an image file: where, when, with what and by whom it was taken.

No pixel is encoded again: segments of a JPEG, or chunks of a PNG or WebP, are left out, and so is
what follows the image's end. What decides how it looks stays: tables, colour profiles, and of EXIF
the orientation. https://www.w3.org/TR/png-3, ITU-T T.81 (annex B), RFC 9649 (WebP).
"""

import re
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from models.preprocess import header, image_format, orientation

_ORIENTATION_TAG = 0x0112
_EXIF_HEAD = b"Exif\0\0"
_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # a marker that is no restart marker
_STANDALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_PNG_KEPT = {
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"bKGD"),
    *(b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB"),
}
_WEBP_KEPT = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"}
_WEBP_EXIF, _WEBP_XMP = 0x08, 0x04  # flags of VP8X


def without_metadata(data: bytes) -> bytes:
    """The file of a JPEG, PNG or WebP without its metadata; it decodes to the same pixels.

    Raises ValueError if it is not put together as its format asks, so that some might be left, and
    what `models.preprocess.header` raises.
    """
    with header(data) as image:
        turned = orientation(image)
    exif = _exif(turned) if 2 <= turned <= 8 else b""
    take = {"JPEG": _jpeg, "PNG": _png, "WebP": _webp}[image_format(data)]
    return take(data, exif)


def _exif(turned: int) -> bytes:
    """An EXIF block with nothing but the orientation."""
    block = Image.Exif()
    block[_ORIENTATION_TAG] = turned
    return block.tobytes()


def _jpeg(data: bytes, exif: bytes) -> bytes:
    parts = [data[:2], *(_kept(marker, part) for marker, part in _segments(data))]
    if exif:
        at = 2 if parts[1][:2] == b"\xff\xe0" else 1
        parts.insert(at, b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif)
    return b"".join(parts)


def _kept(marker: int, part: bytes) -> bytes:
    """What stays of a segment."""
    if marker == 0xE0 and part[4:9] == b"JFIF\0" and len(part) >= 18:
        return part[:2] + struct.pack(">H", 16) + part[4:16] + bytes(2)  # without its thumbnail
    profile = marker == 0xE2 and part[4:16] == b"ICC_PROFILE\0"
    how_colours_are_stored = marker == 0xEE and part[4:9] == b"Adobe" and len(part) == 16
    of_the_picture = not 0xE0 <= marker <= 0xFE  # neither an application's nor a comment
    return part if profile or how_colours_are_stored or of_the_picture else b""


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each marker with its segment, and a scan with all of its data. Ends after the image."""
    at = 2
    while at < len(data):
        start = at
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if data[at : at + 1] != b"\xff" or at + 1 >= len(data):
            raise ValueError(f"the JPEG has no marker at byte {start}")
        marker, end = data[at + 1], at + 2
        if marker not in {0xD9, *_STANDALONE}:
            end += int.from_bytes(data[end : end + 2], "big")
            if end < at + 4 or end > len(data):
                raise ValueError(f"the JPEG's segment at byte {at} is incomplete")
        if marker == 0xDA:
            following = _AFTER_SCAN.search(data, end)
            end = following.start() if following else len(data)
        yield marker, data[at:end]
        if marker == 0xD9:
            return
        at = end


def _png(data: bytes, exif: bytes) -> bytes:
    parts, at, name = [data[:8]], 8, b""
    while name != b"IEND":
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data):
            raise ValueError(f"the PNG's chunk at byte {at} is incomplete")
        if name == b"IDAT" and exif:
            content = b"eXIf" + exif.removeprefix(_EXIF_HEAD)
            size, sum_ = struct.pack(">I", len(content) - 4), struct.pack(">I", zlib.crc32(content))
            parts.append(size + content + sum_)
            exif = b""
        if name in _PNG_KEPT:
            parts.append(data[at:end])
        at = end
    return b"".join(parts)


def _webp(data: bytes, exif: bytes) -> bytes:
    end = 8 + int.from_bytes(data[4:8], "little")
    parts, at = [b"WEBP"], 12
    while at + 8 <= end:
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        following = at + 8 + length + length % 2
        if at + 8 + length > len(data):
            raise ValueError(f"the WebP's chunk at byte {at} is incomplete")
        chunk = data[at:following]
        if name == b"VP8X" and length:
            flags = chunk[8] & ~(_WEBP_EXIF | _WEBP_XMP) | (_WEBP_EXIF if exif else 0)
            chunk = chunk[:8] + bytes([flags]) + chunk[9:]
        if name in _WEBP_KEPT:
            parts.append(chunk)
        at = following
    if exif:
        parts.append(b"EXIF" + struct.pack("<I", len(exif)) + exif + bytes(len(exif) % 2))
    content = b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(content)) + content
