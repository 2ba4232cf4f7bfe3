"""Fine-tunes ResNet-18 at 128 px on three real sets, as the README's table says.

python -m benchmarks.real_images FOLDER RUNS

FOLDER holds `pets/`, `voc2007/`, `caltech101/` and `weights/resnet18-distilled.pth`; the runs stay
in RUNS. Prints a table: the held-out figure with its 95 % interval, seconds of the whole command,
images a second while the whole network trained.
"""

import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from training import run
from training.evaluate import HEADLINE

SETS = {
    "Caltech-101": ("caltech101", 1, 3),
    "VOC 2007": ("voc2007/train.csv", 1, 3),
    "Oxford Pets": ("pets", 10, 20),
}


def main(folder: Path, runs: Path) -> None:
    print(f"{platform.processor() or platform.machine()}, {platform.python_version()}")
    print("| data | epochs: head + whole | figure | 95 % interval | seconds | images/s |")
    print("|---|---|---|---|---|---|")
    for name, (data, freeze_epochs, epochs) in SETS.items():
        out = runs / Path(data).parts[0]
        options = {
            "weights": folder / "weights" / "resnet18-distilled.pth",
            "image-size": 128,
            "freeze-epochs": freeze_epochs,
            "epochs": epochs,
            "out": out,
        }
        command = [sys.executable, "-m", "training", "train", str(folder / data)]
        command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        finished = run.read(out)
        figure = HEADLINE[finished.outcome.task]
        metric = finished.outcome.metrics[figure]
        lines = (out / run.EPOCHS_FILE).read_text().splitlines()
        rates = [e["images_per_s"] for e in map(json.loads, lines) if e["phase"] == "whole"]
        print(
            f"| {name} | {freeze_epochs} + {epochs} | {figure} {metric.value:.3f}"
            f" | {metric.low:.3f} to {metric.high:.3f} | {seconds:.0f} | {median(rates):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
