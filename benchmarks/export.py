"""Where the time of an export goes, in seconds and in seconds of CPU.

python -m benchmarks.export RUN [EARLIER.json]

RUN is the folder of a finished training. Exports it into a temporary store, with every form, and
prints a table of the stages; `export.json` in the current folder keeps them. With EARLIER, what an
earlier call kept, also what each stage takes relative to it. CPU seconds hardly depend on what else
the machine does.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from models import bundle, golden
from models.errors import GateError
from models.hardware import processor
from models.manifest import Precision
from models.store import Store
from training import run_folder
from training.evaluation import comparison, evaluate, onnx_session
from training.export import export, forms, gate, reduced_precision

RESULT = Path("export.json")
STAGES: list[tuple[Any, str, str]] = [  # (module, function, stage); what none names is the rest's
    (export, "validation_images", "read and decode the validation images"),
    (export, "training_images", "read and decode the images that calibrate int8"),
    (export, "onnx_bytes", "torch to ONNX"),
    (gate, "reference_outputs", "the trained network's scores, by torch"),
    (golden, "forms", "golden images"),
    (golden, "inputs", "golden images"),
    (reduced_precision, "halved", "make fp16"),
    (reduced_precision, "quantized", "make int8: prepare"),
    (reduced_precision, "quantize_static", "make int8: calibrate, quantize"),
    (onnx_session, "answers", "gates: load"),
    (comparison, "average_precisions", "gates: bounds"),
    (comparison, "separations", "gates: bounds"),
    (comparison, "tags", "gates: bounds"),
    (comparison, "square_changes", "gates: bounds"),
    (evaluate, "cross_fitted", "gates: own metrics"),
    (evaluate.Evaluation, "measure", "gates: own metrics"),
    (bundle, "write", "write the bundle"),
]


@dataclass
class Spent:
    """Seconds of the clock, and of the CPU in all threads of the process."""

    wall: float = 0.0
    cpu: float = 0.0


class Stages:
    """Seconds by stage; those of a stage inside another count for the inner one only."""

    def __init__(self) -> None:
        self.spent: dict[str, Spent] = {}
        self._open: list[str] = []
        self._since = (time.perf_counter(), time.process_time())

    def _charge(self) -> None:
        now = (time.perf_counter(), time.process_time())
        if self._open:
            spent = self.spent.setdefault(self._open[-1], Spent())
            spent.wall += now[0] - self._since[0]
            spent.cpu += now[1] - self._since[1]
        self._since = now

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._charge()
        self._open.append(stage)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            with self(stage):
                result = function(*arguments, **options)
            return self.timed(result, "gates: run") if stage == "gates: load" else result

        return run


def measure(path: Path) -> dict[str, Spent]:
    """Seconds by stage of an export of the run in the folder `path`, with every form."""
    run, stages = run_folder.read(path), Stages()
    check = gate.check

    def passed(model: bytes, precision: Precision, *more: Any) -> Any:
        try:
            return check(model, precision, *more)
        except GateError as error:
            print(f"{precision}: {error}", file=sys.stderr)
            raise

    patches = [
        patch.object(module, name, stages.timed(getattr(module, name), stage))
        for module, name, stage in STAGES
    ]
    patches.append(patch.object(gate, "check", passed))
    for one in patches:
        one.start()
    try:
        with tempfile.TemporaryDirectory() as folder, stages("the rest"):
            export.export(run, "measured", Store(Path(folder)), precisions=None)
    finally:
        for one in patches:
            one.stop()
    return stages.spent


def main(path: Path, earlier: Path | None) -> None:
    before = json.loads(earlier.read_text()) if earlier else {}
    print(f"{processor()}; forms: fp32, {', '.join(forms.REDUCED)}\n")
    found = measure(path)
    found["all"] = Spent(
        sum(one.wall for one in found.values()), sum(one.cpu for one in found.values())
    )
    print("| stage | seconds | CPU seconds | CPU seconds before | ratio |")
    print("|---|---|---|---|---|")
    for stage in [*sorted({*found, *before} - {"all"}), "all"]:
        spent, old = found.get(stage, Spent()), before.get(stage)
        ratio = f"{old:.1f} | {spent.cpu / old:.2f}" if old else " | "
        print(f"| {stage} | {spent.wall:.1f} | {spent.cpu:.1f} | {ratio} |")
    RESULT.write_text(json.dumps({stage: spent.cpu for stage, spent in found.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
