"""Everything that only a GPU can answer, in one go.

    scripts/gpu [--device cpu] [--small] [--minutes 15] [--out FOLDER] [--steps NAME ...]
    scripts/gpu pack [FOLDER]

Runs the tests marked `gpu`; trains a ResNet-50 at 224 pixels in bfloat16 from JPEG files; exports
it and proves it on CUDA; serves it in fp32 and fp16 with 1 to 8 workers; swaps versions under
load; tries what else ONNX Runtime offers. Each step is a process that may fail. Prints one table,
which FOLDER also gets, with all values and logs (gpu.md, gpu.json, gpu.log), anew after each step.
`--device cpu --small` rehearses it: every line but CUDA's own runs. `pack` prepares a machine
without any network.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu import pack
from benchmarks.gpu.plan import Plan, small
from benchmarks.gpu.steps import Outcome, do, steps, table, work_off, write


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="scripts/gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    whole.add_argument("--small", action="store_true", help="a rehearsal, at small sizes")
    whole.add_argument(
        "--minutes", type=float, default=15, help="when they are over, no step begins"
    )
    whole.add_argument("--out", type=Path, default=Path("gpu-results"), help="the results")
    whole.add_argument("--work", type=Path, help="images, runs, bundles; default: OUT/work")
    whole.add_argument("--steps", nargs="+", metavar="NAME", help="only those that begin like this")
    whole.add_argument("--list", action="store_true", help="print the steps")
    whole.add_argument("--do", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    return whole


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["pack"]:
        return pack.main(arguments[1:])
    given = parser().parse_args(arguments)
    out: Path = given.out.absolute()
    work = (given.work or out / "work").absolute()
    plan = small(given.device, work) if given.small else Plan(given.device, work)
    if given.do:
        name, result = given.do
        do(next(step for step in steps(plan) if step.name == name), plan, Path(result))
        return 0
    starts = tuple(given.steps or [""])
    chosen = [step for step in steps(plan) if step.name.startswith(starts)]
    if given.list:
        print("\n".join(step.name for step in chosen))
        return 0
    if not chosen:
        print(f"error: --steps {' '.join(starts)}: none of {_names(plan)}", file=sys.stderr)
        return 2
    logs = work / "steps"
    logs.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu", *_same(given), "--work", str(work), "--do"]

    def written(outcomes: list[Outcome]) -> None:
        write(out, logs, outcomes)

    outcomes = work_off(chosen, command, logs, given.minutes, written)
    print(table(outcomes))
    may_fail = {step.name for step in chosen if step.trial}
    return int(any(outcome.error and outcome.step not in may_fail for outcome in outcomes))


def _same(given: Any) -> list[str]:
    """The options that make the same plan."""
    return ["--device", given.device, *(["--small"] if given.small else [])]


def _names(plan: Plan) -> str:
    return ", ".join(step.name for step in steps(plan))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
