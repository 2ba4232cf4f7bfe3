"""From image bytes to the network's input: the project's only decoder, for training and serving.

bytes -> format, limits -> upright RGB image -> uint8 [S, S, 3]
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from models.errors import FormatUnsupported, ImageMissing, ImageTooLarge, ImageUndecodable
from models.manifest import Preprocess
from models.wording import installing

SERVED_FORMATS = ("JPEG", "PNG", "WebP")  # what strangers send: no other decoder sees their bytes
TRAINING_FORMATS = (*SERVED_FORMATS, "HEIC", "AVIF")  # one's own images; HEIC needs pillow-heif
MEGAPIXELS_MAX = 89.0  # Pillow itself warns of a decompression bomb just above
Box = tuple[float, float, float, float]
"""left, top, right, bottom, as fractions of a picture's width and height."""

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {  # EXIF orientation -> the transposition that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = [_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)]  # width becomes height


def decode(
    data: bytes,
    preprocess: Preprocess,
    megapixels_max: float = MEGAPIXELS_MAX,
    formats: Sequence[str] = SERVED_FORMATS,
) -> NDArray[np.uint8]:
    """The network's input for one image file: uint8 `[S, S, 3]`, RGB.

    Resamples once, bilinear with antialiasing, the centred square box with side
    `min(w, h) * crop_fraction`. Raises the same errors as `load`.
    """
    return decode_with_box(data, preprocess, megapixels_max, formats)[0]


def decode_with_box(
    data: bytes,
    preprocess: Preprocess,
    megapixels_max: float = MEGAPIXELS_MAX,
    formats: Sequence[str] = SERVED_FORMATS,
) -> tuple[NDArray[np.uint8], Box]:
    """As `decode`, and the box of the upright picture that the network sees."""
    size = preprocess.image_size_px
    stored = _decoded(data, size / preprocess.crop_fraction, megapixels_max, formats)
    side = min(stored.width, stored.height) * preprocess.crop_fraction
    left, top = (stored.width - side) / 2, (stored.height - side) / 2
    box = (left, top, left + side, top + side)
    square = stored.image.resize((size, size), Image.Resampling.BILINEAR, box)
    # a centred square can be transposed after it is resampled
    return np.asarray(_upright(square, stored.transposition)), _upright_box(stored, side)


def load(
    data: bytes,
    shorter_px: float,
    megapixels_max: float = MEGAPIXELS_MAX,
    formats: Sequence[str] = SERVED_FORMATS,
) -> Image.Image:
    """The whole image, upright, in mode RGB; alpha over white; first frame only.

    A JPEG is reduced by 2, 4 or 8 if its shorter side is still at least `shorter_px` afterwards.
    ICC profiles are not applied. 16-bit grey is divided by 257; of 16-bit colour Pillow keeps the
    high byte, which is up to one level less.

    Raises ImageMissing (no bytes), FormatUnsupported (a known format that is not one of `formats`,
    or that nothing installed decodes), ImageTooLarge (more than `megapixels_max` according to the
    header, before any pixel is decoded) and ImageUndecodable (anything else that is not a complete
    image).
    """
    stored = _decoded(data, shorter_px, megapixels_max, formats)
    return _upright(stored.image, stored.transposition)


@dataclass(frozen=True)
class _Stored:
    """An image as stored in its file: in RGB, but not yet upright."""

    image: Image.Image
    width: float  # in pixels of `image`; a fraction where a reduced JPEG's last pixels overhang
    height: float
    transposition: Image.Transpose | None


def image_format(data: bytes, formats: Sequence[str] = SERVED_FORMATS) -> str:
    """The one of `formats` that the image is in, by its first bytes. Raises as `load` does."""
    if not data:
        raise ImageMissing("the image has no bytes")
    found = _recognised(data)
    valid = f"{', '.join(formats[:-1])} or {formats[-1]}"
    if found is None:
        raise ImageUndecodable(f"the bytes are not a {valid} image")
    if found not in formats:
        raise FormatUnsupported(f"the image is {found}; {_ADVICE.get(found, f'use {valid}')}")
    return found


def header(
    data: bytes,
    megapixels_max: float = MEGAPIXELS_MAX,
    formats: Sequence[str] = SERVED_FORMATS,
) -> Image.Image:
    """The image opened, with only its header read. Raises as `load` does."""
    form = image_format(data, formats)
    if form == "HEIC" and not _heic_is_decoded():
        raise FormatUnsupported(
            f"the image is HEIC, which needs pillow-heif: {installing('heif')}, or convert it:"
            " `sips -s format jpeg IMG.HEIC --out IMG.jpg` (macOS),"
            " `magick IMG.HEIC IMG.jpg` (ImageMagick)"
        )
    too_large = f"more than the limit of {megapixels_max:g} megapixels"
    try:
        image = Image.open(io.BytesIO(data), formats=[_PLUGINS.get(form, form)])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"the image has {too_large}") from error
    except UnidentifiedImageError as error:
        raise ImageUndecodable(f"the {form} image has no readable header") from error
    except Exception as error:
        raise ImageUndecodable(f"the {form} image is damaged") from error
    width, height = image.size
    if width * height > megapixels_max * 1e6:
        raise ImageTooLarge(f"the image has {width} x {height} pixels, {too_large}")
    return image


_PLUGINS = {"HEIC": "HEIF"}  # Pillow's name of a format, where it is another; case is ignored
_TO_JPEG = "convert it to JPEG first"
_ADVICE = {
    "HEIC": f"{_TO_JPEG} (on an iPhone: Settings > Camera > Formats > Most Compatible)",
    "AVIF": _TO_JPEG,
}


def _decoded(
    data: bytes, shorter_px: float, megapixels_max: float, formats: Sequence[str]
) -> _Stored:
    image = header(data, megapixels_max, formats)
    try:
        return _stored(image, shorter_px)
    except Exception as error:  # Pillow raises OSError, ValueError, SyntaxError, struct.error, …
        form = image_format(data, formats)
        if form == "JPEG" and (repaired := _repair(data, shorter_px)):
            return repaired
        raise ImageUndecodable(f"the {form} image is damaged or incomplete") from error


def _recognised(data: bytes) -> str | None:
    """The format that the first bytes are of, None if they are of none that is known."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if data[:2] == b"BM" and data[6:10] == b"\0\0\0\0":  # reserved, zero; text has no zero bytes
        return "BMP"
    if data[4:8] == b"ftyp":
        return _of_brand(data)
    return None


def _of_brand(data: bytes) -> str | None:
    """AVIF or HEIC, which share a container, by its main brand and the list of other brands."""
    brand, end = data[8:12], int.from_bytes(data[:4], "big")
    if brand in (b"mif1", b"msf1"):  # any codec: the others tell
        others = {data[at : at + 4] for at in range(16, min(end, 128), 4)}
        return "AVIF" if others & {b"avif", b"avis"} else "HEIC"
    if brand in (b"avif", b"avis"):
        return "AVIF"
    if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"):
        return "HEIC"
    return None


@cache
def _heic_is_decoded() -> bool:
    """Teach Pillow to open HEIC, if pillow-heif is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _stored(image: Image.Image, shorter_px: float) -> _Stored:
    width, height = image.size
    scale = 1
    if isinstance(image, ImageFile.ImageFile) and image.format in ("JPEG", "MPO"):
        scale = next((s for s in (8, 4, 2) if min(width, height) >= s * shorter_px), 1)
        image.draft(None, (width // scale, height // scale))
    image.load()
    transposition = _UPRIGHT.get(orientation(image))
    return _Stored(_rgb(image), width / scale, height / scale, transposition)


def _upright(image: Image.Image, transposition: Image.Transpose | None) -> Image.Image:
    return image if transposition is None else image.transpose(transposition)


def _upright_box(stored: _Stored, side: float) -> Box:
    """Where the centred square with this side lies in the upright image."""
    across, down = side / stored.width, side / stored.height
    if stored.transposition in _TURNED:
        across, down = down, across
    return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image that was opened; 1, upright, if it has none."""
    try:
        return int(image.getexif()[_ORIENTATION_TAG])
    except Exception:  # no EXIF block or a damaged one: the pixels are still good
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I;16":
        samples = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((samples + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        upper = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, upper).convert("RGB")
    return image.convert("RGB")


def _repair(data: bytes, shorter_px: float) -> _Stored | None:
    """Decode a JPEG that has lost only its end marker; None if pixels are missing too.

    The decoder fills missing pixels from whatever follows the data. So two different tails give
    the same image only if nothing was missing. A JPEG that is progressive, has a scan for each
    colour or has restart markers could lack a whole part without showing it: it is not repaired.
    """
    scan = data.rfind(b"\xff\xda")  # the last start-of-scan marker
    whole = data.rstrip(b"\xff")  # without the first half of an end marker
    tails = (b"\xff\xd9", b"\xaa\x55" * 64 + b"\xff\xd9")
    try:
        images = [Image.open(io.BytesIO(whole + tail), formats=["JPEG"]) for tail in tails]
        in_parts = b"\xff\xdd" in data[:scan] or data[scan + 4] != len(images[0].getbands())
        if "progressive" in images[0].info or in_parts:
            return None
        first, second = (_stored(image, shorter_px) for image in images)
    except Exception:  # still not decodable
        return None
    return first if first.image.tobytes() == second.image.tobytes() else None
