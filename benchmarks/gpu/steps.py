"""The steps, and how they run: each in a process of its own, so that none can stop another."""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

from benchmarks.gpu.plan import Plan, Values
from benchmarks.gpu.trials import TRIALS
from models.wording import counted
from testkit.servers import ROOT

_LEAST_S = 5.0  # with less time left, a step is not begun


@dataclass(frozen=True)
class Step:
    """function: `module:name` here, imported by the step's own process, called with the plan and
    the arguments; limit_s: it is ended after that; trial: it may fail.
    """

    name: str
    limit_s: float
    function: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    trial: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a step: its values, or why there are none."""

    step: str
    seconds: float
    values: Values = field(default_factory=dict)
    error: str = ""


def steps(plan: Plan) -> list[Step]:
    """All steps in their order. Training needs `images`, and what comes after `bundle` that."""
    found = [
        Step("machine", 90, "machine:describe"),
        Step("tests", 120, "machine:tests"),
        Step("images", 90, "learning:draw"),
        Step("network alone", 60, "learning:network_alone"),
        Step("training", 150, "learning:train", {"cache": "auto"}),
        Step("training, no cache", 120, "learning:train", {"cache": "none"}),
        Step("bundle", 240, "learning:write_bundle"),
    ]
    for precision in plan.precisions:
        alone = {"precision": precision}
        found.append(Step(f"session {precision}", 60, "answering:session_alone", alone))
    for precision in plan.precisions:
        for workers in plan.workers:
            served = {"precision": precision, "workers": workers}
            name = f"service {precision}, {counted(workers, 'worker')}"
            found.append(Step(name, 120, "answering:service", served))
    found.append(Step("swap", 60, "answering:swaps"))
    for precision in reversed(plan.precisions):
        for name, trial in TRIALS.items():
            if precision in trial.precisions:
                tried = {"name": name, "precision": precision}
                found.append(Step(f"trial {name}, {precision}", 90, "trials:measure", tried, True))
    return found


def work_off(
    chosen: Sequence[Step],
    command: Sequence[str],
    folder: Path,
    minutes: float,
    written: Callable[[list[Outcome]], None],
) -> list[Outcome]:
    """Run each step as `command` with its name; calls `written` after each with all outcomes.

    Steps for which no time is left are not begun. folder: gets a log and a result of each.
    """
    end_s = time.monotonic() + 60 * minutes
    outcomes: list[Outcome] = []
    for step in chosen:
        left_s = end_s - time.monotonic()
        if left_s < _LEAST_S:
            outcomes.append(Outcome(step.name, 0, error=f"not begun: {minutes:g} minutes are over"))
        else:
            outcomes.append(_run(step, command, folder, min(step.limit_s, left_s)))
        written(outcomes)
    return outcomes


def _run(step: Step, command: Sequence[str], folder: Path, limit_s: float) -> Outcome:
    log, result = (folder / f"{step.name}.{ending}" for ending in ("log", "json"))
    result.unlink(missing_ok=True)
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, step.name, str(result)],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,  # to end its servers with it
        )
    try:
        code: int | None = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    seconds = time.monotonic() - began
    if result.exists():
        found = json.loads(result.read_text())
        return Outcome(step.name, seconds, found["values"], found["error"])
    ended = f"ended after {limit_s:.0f} s" if code is None else f"ended with code {code}"
    lines = log.read_text(errors="replace").strip().splitlines()
    return Outcome(step.name, seconds, error=f"{ended}: {lines[-1] if lines else 'no output'}")


def do(step: Step, plan: Plan, result: Path) -> None:
    """The step itself, in its own process: writes its values, or its error, to `result`."""
    values: Values = {}
    error = ""
    try:
        module, _, name = step.function.partition(":")
        values = getattr(import_module(f"{__package__}.{module}"), name)(plan, **step.arguments)
    except Exception as failure:
        traceback.print_exc()
        error = f"{type(failure).__name__}: {failure}"
    part = result.with_suffix(".part")
    part.write_text(json.dumps({"values": values, "error": error}))
    part.rename(result)


def table(outcomes: Sequence[Outcome]) -> str:
    """One row for each step."""
    lines = ["| step | s | result |", "|---|---|---|"]
    for outcome in outcomes:
        found = "; ".join(f"{name} {_shown(value)}" for name, value in outcome.values.items())
        text = f"**failed**: {outcome.error}" if outcome.error else found
        text = " ".join(text.replace("|", "\\|").split())
        lines.append(f"| {outcome.step} | {outcome.seconds:.0f} | {text} |")
    return "\n".join(lines)


def _shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def write(out: Path, logs: Path, outcomes: Sequence[Outcome]) -> None:
    """`gpu.md`, `gpu.json` and `gpu.log`, anew after each step: what is measured is kept."""
    (out / "gpu.md").write_text(table(outcomes) + "\n")
    everything = [asdict(outcome) for outcome in outcomes]
    (out / "gpu.json").write_text(json.dumps(everything, indent=1) + "\n")
    texts = []
    for outcome in outcomes:
        log = logs / f"{outcome.step}.log"
        texts.append(f"\n== {outcome.step}\n")
        texts.append(log.read_text(errors="replace") if log.exists() else "")
    (out / "gpu.log").write_text("".join(texts))
    print(table(outcomes[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
