"""A hash of what an image looks like, whatever its file's bytes are."""

import numpy as np
from PIL import Image
from scipy.fft import dct

SIDE_PX = 32  # of the reduced image, which is all that is needed
_BASIS = np.rint(dct(np.eye(SIDE_PX), axis=0, norm="ortho")[:8] * 2**12).astype(np.int64)
_PLAIN = 5 * 2**24  # a coefficient of 5 grey levels; below it the noise of JPEG decides the sign


def perceptual_hash(image: Image.Image) -> int | None:
    """A number that changes in few bits when an image is resized, recompressed or brightened.

    The signs of the 63 lowest frequencies of a 32 x 32 grey version about their median: pHash in
    Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, with the
    zeroth row and column kept. None where the image is too plain for most signs to mean
    anything. Computed in integers, so it is the same on every machine.
    """
    small = image.convert("L").resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
    waves = (_BASIS @ np.asarray(small, np.int64) @ _BASIS.T).ravel()[1:]
    if np.median(np.abs(waves)) < _PLAIN:
        return None
    bits = np.packbits(waves > np.median(waves))
    return int.from_bytes(bits.tobytes(), "big")
