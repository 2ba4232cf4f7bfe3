"""Kills a training run at random moments and resumes it, again and again: is the result identical?

python -m benchmarks.kill DATA [KILLS]

DATA as for `train`, or `drawn` for images drawn here. Prints after which step each
attempt began, the newest checkpoint when it was killed, and the hash of the final weights next to
that of an uninterrupted run. Exit code 1 if they differ.
"""

import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from models.bundle import sha256
from training import run_folder

RECIPE = """
weights = "none"
device = "cpu"
image_size = 32
batch_size = 8
freeze_epochs = 1
epochs = 3
checkpoint_s = 0
"""
KILLS = 20


def main(data: str, kills: int) -> int:
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if data == "drawn":
            data = str(draw(folder / "drawn", images=240))
        (folder / "recipe.toml").write_text(RECIPE)
        new = ["train", data, "--recipe", str(folder / "recipe.toml"), "--out"]
        started = time.perf_counter()
        command(*new, str(folder / "uninterrupted")).communicate()
        longest_s = (time.perf_counter() - started) / 4
        expected = weights(folder / "uninterrupted")

        same, done, path = True, 0, folder / "0"
        while done < kills:
            words = [*new, str(path)] if not path.exists() else ["train", "--resume", str(path)]
            process = command(*words)
            began_after = wait_for_steps(process, path)
            ended = process.poll() is not None or sleep(process, chance.uniform(0, longest_s))
            if ended:
                same &= report(path, expected)
                path = folder / str(int(path.name) + 1)
                continue
            process.send_signal(signal.SIGKILL)
            process.communicate()
            done += 1
            print(
                f"kill {done:2}: began after step {began_after}, newest checkpoint: {steps(path)}"
            )
        if path.exists():
            command("train", "--resume", str(path)).communicate()
            same &= report(path, expected)
    return 0 if same else 1


def command(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "training", *words], stdout=subprocess.PIPE, text=True
    )


def wait_for_steps(process: subprocess.Popen[str], path: Path) -> int:
    """Wait until training begins; returns the step after which it does."""
    begins_after = 0
    assert process.stdout
    for line in process.stdout:
        if found := re.match(r"resuming .* after step (\d+)", line):
            begins_after = int(found[1])
        if line.startswith("training images come from"):
            break
    while steps(path) is None and process.poll() is None:
        time.sleep(0.001)
    return begins_after


def sleep(process: subprocess.Popen[str], seconds: float) -> bool:
    """Wait; returns whether the process ended in that time."""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def steps(path: Path) -> int | None:
    files = sorted(path.glob("checkpoints/*.safetensors"))
    return int(files[-1].name.partition("-")[0]) if files else None


def weights(path: Path) -> str:
    return sha256((path / run_folder.WEIGHTS_FILE).read_bytes())


def report(path: Path, expected: str) -> bool:
    found = weights(path)
    print(
        f"killed:        {found}\nuninterrupted: {expected}\n"
        f"{'identical' if found == expected else 'DIFFERENT'}"
    )
    return found == expected


def draw(folder: Path, images: int) -> Path:
    """Noisy images of three colours, a folder for each colour."""
    random_pixels = np.random.default_rng(0)
    for number in range(images):
        colour = np.array([(210, 40, 40), (40, 190, 50), (30, 50, 210)][number % 3])
        pixels = (colour + random_pixels.normal(0, 60, (40, 40, 3))).clip(0, 255)
        (folder / "rgb"[number % 3]).mkdir(parents=True, exist_ok=True)
        file = folder / "rgb"[number % 3] / f"{number:03}.jpg"
        Image.fromarray(pixels.astype(np.uint8)).save(file, quality=90)
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else KILLS))
