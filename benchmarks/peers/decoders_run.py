"""One image to the network's input, by several decoders in turn; in the peer's environment.

decoders_run.py SIZE_PX ROUNDS FOLDER: prints JSON, milliseconds an image of each round by decoder,
and the mean and largest difference of a pixel from the project's own decoder.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from models.manifest import Preprocess
from models.preprocess import decode, header

CROP = 0.9
Decoder = Callable[[bytes], np.ndarray]


def boxed(image: Image.Image, size_px: int) -> np.ndarray:
    side = min(image.size) * CROP
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR, box))


def decoders(size_px: int) -> dict[str, Decoder]:
    preprocess = Preprocess(image_size_px=size_px, crop_fraction=CROP)
    shorter = int(size_px / CROP) + 1

    def loaded(data: bytes) -> np.ndarray:
        """What no resampler can save: the pixels in full, or reduced by Pillow."""
        image = header(data)
        scale = next((s for s in (8, 4, 2) if min(image.size) >= s * size_px / CROP), 1)
        image.draft(None, (image.width // scale, image.height // scale))
        image.load()
        return np.empty(0)

    def turbo(data: bytes, factor: float = 1.0, **options: object) -> np.ndarray:
        pixels = simplejpeg.decode_jpeg(
            data, min_height=shorter, min_width=shorter, min_factor=factor, **options
        )
        return boxed(Image.fromarray(pixels), size_px)

    def opencv(data: bytes) -> np.ndarray:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        height, width = pixels.shape[:2]
        side = min(height, width) * CROP
        top, left = round((height - side) / 2), round((width - side) / 2)
        cut = pixels[top : top + round(side), left : left + round(side)]
        return cv2.resize(cut, (size_px, size_px), interpolation=cv2.INTER_AREA)

    return {
        "ours (Pillow)": lambda data: decode(data, preprocess),
        "of that, the file's decoding": loaded,
        "TurboJPEG, eighths": turbo,
        "TurboJPEG, halves": lambda data: turbo(data, 2.0),
        "TurboJPEG, halves, fast transform and upsampling": lambda data: turbo(
            data, 2.0, fastdct=True, fastupsample=True
        ),
        "OpenCV, whole, INTER_AREA": opencv,
    }


def main(size_px: int, rounds: int, folder: Path) -> None:
    cv2.setNumThreads(1)
    files = [file.read_bytes() for file in sorted(folder.glob("*.jpg"))]
    found = decoders(size_px)
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, decoder in found.items():
            began = time.perf_counter()
            for data in files:
                decoder(data)
            times[name].append(1000 * (time.perf_counter() - began) / len(files))
    off: dict[str, tuple[float, float]] = {}
    for name, decoder in found.items():
        pairs = [(found["ours (Pillow)"](data), decoder(data)) for data in files]
        differences = [np.abs(a.astype(int) - b) for a, b in pairs if b.size]
        if differences:
            off[name] = (
                float(np.mean([d.mean() for d in differences])),
                float(max(d.max() for d in differences)),
            )
    print(json.dumps({"ms": times, "off": off}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
