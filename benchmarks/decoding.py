"""How long one image takes from its bytes to the network's input, beside other decoders.

python -m benchmarks.decoding WORK IMAGES [ROUNDS]

IMAGES: a folder of JPEGs, of which 48 are used, in three sizes: as they are, scaled to 500 pixels
(the usual size in a data set) and to 4,000 (a phone's). One thread, the decoders in turn, ROUNDS
(7) times, in an environment of their own (`benchmarks/peers/decoders.txt`). Prints milliseconds an
image (median and range), the ratio to ours in the same rounds, and by how many levels (0 to 255) a
pixel differs from ours.
"""

import io
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from PIL import Image

from benchmarks.environment import PEERS, installed
from models.hardware import processor
from testkit.servers import ROOT

_SIZE_PX, _FILES = 224, 48


def scaled(data: bytes, longer_px: int) -> bytes:
    """The image as a JPEG whose longer side has so many pixels."""
    with Image.open(io.BytesIO(data)) as image:
        factor = longer_px / max(image.size)
        size = (round(image.width * factor), round(image.height * factor))
        buffer = io.BytesIO()
        image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        return buffer.getvalue()


def main(work: Path, folder: Path, rounds: int) -> None:
    work.mkdir(parents=True, exist_ok=True)
    python = installed(work, "decoders") / "python"
    files = sorted(folder.rglob("*.jpg"))
    images = [file.read_bytes() for file in files[:: max(1, len(files) // _FILES)][:_FILES]]
    print(f"{processor()}, one thread; to {_SIZE_PX} pixels\n")
    for name, longer_px in {"as they are": 0, "500 pixels": 500, "4,000 pixels": 4000}.items():
        made = work / f"images-{longer_px}"
        made.mkdir(exist_ok=True)
        for number, data in enumerate(images):
            (made / f"{number}.jpg").write_bytes(scaled(data, longer_px) if longer_px else data)
        command: list[str | Path] = [python, PEERS / "decoders_run.py"]
        command += [str(_SIZE_PX), str(rounds), made]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(ROOT)}
        )
        seen = json.loads(done.stdout)
        print(f"| {name} | ms | to ours | mean, largest difference |\n|---|---|---|---|")
        ours = next(iter(seen["ms"].values()))
        for decoder, times in seen["ms"].items():
            ratio = median(a / b for a, b in zip(times, ours, strict=True))
            off = "{:.2f}, {:.0f}".format(*seen["off"][decoder]) if decoder in seen["off"] else ""
            spread = f"{median(times):.2f} ({min(times):.2f} to {max(times):.2f})"
            print(f"| {decoder} | {spread} | {ratio:.2f} | {off} |")
        print()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 7)
