"""Do the tests notice a broken line? Breaks the modules that matter most, one place at a time.

Each mutant is written into a scratch copy of the checkout, and its module's own tests run against
it in a fork of a process that has already imported the libraries: first the tests that run the
mutated function, or all tests if it is in no function or a fixture runs it too; then those that
start processes. With TMPDIR=/dev/shm all files are kept in memory. A mutant that survives but is
equivalent is listed in `tests/equivalent_mutants.toml` and not counted:

    [["models/store.py"]]
    was = "the line printed after -"
    becomes = "the line printed after +"
    reason = "why it makes no difference"
"""

import argparse
import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest

from scripts.mutants import Mutant, mutants

MODULES = {
    "models": "bundle conformal coverage decision errors golden manifest preprocess store variants",
    "models/storage": "folder",
    "training/data": "near_duplicates split",
    "training/fine_tuning": "batches schedule validation",
    "training/network": "novelty",
    "training/evaluation": "calibration calibration_error comparison decisions metrics promises",
    "training/export": "gate",
    "training/release": "release",
    "serving": "batcher body deadline follower forms onnx_runtime prediction promises registry"
    " session settings timing",
    "serving/capture": "capture selection",
}
ALL = [f"{package}/{name}.py" for package, names in MODULES.items() for name in names.split()]
TESTS = {  # if not just tests/<package>/test_<module>.py
    "models/storage/folder.py": ["tests/models/test_store.py"],
    "training/export/gate.py": [
        "tests/training/export/test_gate.py",
        "tests/training/export/test_gate_of_variants.py",
    ],
    "serving/registry.py": ["tests/serving/test_registry.py", "tests/serving/test_follower.py"],
    "serving/capture/capture.py": ["tests/serving/test_capture.py"],
    "serving/capture/selection.py": ["tests/serving/test_selection.py"],
    "serving/forms.py": ["tests/serving/test_forms.py", "tests/serving/test_session_on_cuda.py"],
    "serving/onnx_runtime.py": [
        "tests/serving/test_onnx_runtime.py",
        "tests/serving/test_session_on_cuda.py",
    ],
    "serving/session.py": [
        "tests/serving/test_session.py",
        "tests/serving/test_session_on_cuda.py",
    ],
}
EQUIVALENT = Path("tests/equivalent_mutants.toml")
GOAL = 0.95  # of the mutants that are not equivalent
LIBRARIES = ["torch", "torchvision", "onnx", "onnxruntime", "scipy.stats", "bentoml", "httpx"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help="default: all that matter most"
    )
    parser.add_argument("--lines", metavar="LINES", help="mutate these only: 12,30-35")
    options = parser.parse_args()
    modules = options.modules or ALL
    lines: set[int] | None = None
    if options.lines:
        lines = set()
        for part in options.lines.split(","):
            first, _, last = part.partition("-")
            lines |= set(range(int(first), int(last or first) + 1))
    listed = tomllib.loads(EQUIVALENT.read_text()) if EQUIVALENT.exists() else {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # after the clean-up
    os.environ["OMP_NUM_THREADS"] = "1"  # a fork has none of its parent's threads
    results = []
    with _scratch_copy() as copy:
        for module in modules:
            results.append(measure(copy, module, lines, listed.get(module, [])))
            print(results[-1], flush=True)
    if len(results) > 1:
        print("", *results, sep="\n")
    return 0 if all(result.good for result in results) else 1


@dataclass
class Result:
    """What became of a module's mutants; mislisted: listed ones that do not survive."""

    module: str
    killed: int = 0
    timeouts: int = 0
    survived: int = 0
    equivalent: int = 0
    mislisted: int = 0

    @property
    def rate(self) -> float:
        """Share of the non-equivalent mutants noticed, by a failure or the time limit."""
        noticed = self.killed + self.timeouts
        return noticed / max(noticed + self.survived, 1)

    @property
    def good(self) -> bool:
        return self.rate >= GOAL and not self.mislisted

    def __str__(self) -> str:
        return (
            f"{self.module}: {self.rate:.1%} noticed: {self.killed} killed, {self.timeouts}"
            f" timeouts, {self.survived} survived; {self.equivalent} equivalent"
        )


def tests_of(module: str) -> list[str]:
    """The files with a module's own tests."""
    package, _, name = module.removesuffix(".py").rpartition("/")
    return TESTS.get(module, [f"tests/{package}/test_{name}.py"])


def measure(
    copy: Path, module: str, lines: set[int] | None, listed: list[dict[str, str]]
) -> Result:
    """Run the tests of `module` against its mutants, on `lines` only; print the survivors."""
    tests = tests_of(module)
    source = (copy / module).read_text()
    found = [m for m in mutants(source) if lines is None or m.line in lines]
    unbroken = _run_unbroken(copy, module, tests)
    limit_s = 10 + 3 * unbroken.seconds
    print(f"\n{module}: {len(found)} mutants, {unbroken.seconds:.1f} s of tests", flush=True)
    result, survivors = Result(module), []
    for number, mutant in enumerate(found):
        _write(copy / module, mutant.source, number)
        chosen = unbroken.that_run(mutant, tests)
        code = _in_fork(copy, limit_s, _Tests(chosen, fixtures=chosen != tests))
        if code == 0 and (others := unbroken.that_start_processes(tests)):
            code = _in_fork(copy, limit_s, _Tests(others))
        if code is None:
            result.timeouts += 1
        elif code != 0:
            result.killed += 1
        else:
            survivors.append((mutant.was, mutant.becomes))
            if any((entry["was"], entry["becomes"]) == survivors[-1] for entry in listed):
                result.equivalent += 1
            else:
                result.survived += 1
                print(f"{module}:{mutant.line}\n- {mutant.was}\n+ {mutant.becomes}", flush=True)
    _write(copy / module, source, len(found))
    for entry in listed if lines is None else []:
        if (entry["was"], entry["becomes"]) not in survivors:
            result.mislisted += 1
            print(f"{EQUIVALENT} lists a mutant that does not survive:\n+ {entry['becomes']}")
    return result


@contextmanager
def _scratch_copy() -> Iterator[Path]:
    """A copy of what git tracks or would add, beside the `shared` folder that tests look for."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder) / "checkout"
        for name in filter(os.path.isfile, names.split("\0")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, copy / name)
        (copy.parent / "shared").symlink_to(Path("../shared").resolve())
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = f"{folder}/bytecode"
        os.environ["PYTHONDONTWRITEBYTECODE"] = ""
        sys.dont_write_bytecode = False
        yield copy


def _write(path: Path, source: str, number: int) -> None:
    path.write_text(source)
    os.utime(path, (number, number))  # Python recognizes stale bytecode by a file's time and size


@dataclass(frozen=True)
class _Unbroken:
    """How long the tests take, in all and each, which of them run each line, and which start
    processes.

    "" stands for code outside any test's call: in a fixture or, for lines, also an import.
    """

    seconds: float
    durations: dict[str, float]
    tests_by_line: dict[str, list[str]]
    starting: list[str]

    def that_run(self, mutant: Mutant, tests: list[str]) -> list[str]:
        """Those that run the mutant, the quickest first; all tests if a fixture runs it too."""
        body = mutant.function or range(0)
        chosen = {test for line in body for test in self.tests_by_line.get(str(line), [])}
        return (
            tests if not chosen or "" in chosen else sorted(chosen, key=self.durations.__getitem__)
        )

    def that_start_processes(self, tests: list[str]) -> list[str]:
        """Their lines are not traced completely: the processes they start may run the mutant."""
        return tests if "" in self.starting else self.starting


def _run_unbroken(copy: Path, module: str, tests: list[str]) -> _Unbroken:
    """Raises SystemExit if the tests fail without a mutation. Imports the libraries they import."""
    report = copy.parent / "unbroken.json"
    for _ in range(2):  # the first may spend much of its time importing
        began = time.monotonic()
        if _in_fork(copy, 3600, _Tests(tests, traced=module, report=report)) != 0:
            raise SystemExit(f"error: {', '.join(tests)} fail without any mutation")
        seconds = time.monotonic() - began
        seen = json.loads(report.read_text())
        if all(library in sys.modules for library in seen["libraries"]):
            break
        for library in seen["libraries"]:
            importlib.import_module(library)
        gc.freeze()  # or else each fork's first collection copies everything
    return _Unbroken(seconds, seen["durations"], seen["tests_by_line"], seen["starting"])


def _in_fork(copy: Path, limit_s: float, work: Callable[[], int]) -> int | None:
    """Run `work` in its own process, in `copy`; returns its result, or None past the limit."""
    process = os.fork()
    if process == 0:
        code = 70
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.chdir(copy)
            sys.path.insert(0, str(copy))
            with (copy.parent / "output.txt").open("w") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            code = work()
        finally:
            os._exit(code)
    ends = time.monotonic() + limit_s
    try:
        while time.monotonic() < ends:
            finished, status = os.waitpid(process, os.WNOHANG)
            if finished:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # and what it started
        with suppress(ChildProcessError):
            os.waitpid(process, 0)


@dataclass
class _Tests:
    """Runs tests until one fails; returns pytest's exit code. As its plugin, it traces them.

    fixtures: use those that an earlier run of the session has made.
    """

    tests: list[str]
    fixtures: bool = True
    traced: str | None = None
    report: Path | None = None

    def __call__(self) -> int:
        folder = tempfile.mkdtemp(prefix="pytest-")
        if self.fixtures:
            os.environ["TEST_FIXTURES"] = os.environ["TMPDIR"]
        quiet = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}"]
        # for a pytest plugin (anyio) of a library imported before the fork
        quiet += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        if self.traced is None or self.report is None:
            code = pytest.main([*quiet, *self.tests])
        else:
            path = str(Path(self.traced).resolve())
            self.tracer = coverage.Coverage(data_file=None, config_file=False, include=[path])
            self.starting: set[str] = set()
            self.running: str | None = None
            self.durations: dict[str, float] = {}
            sys.addaudithook(self.audit)
            self.tracer.start()
            code = pytest.main([*quiet, *self.tests], plugins=[self])
            self.tracer.stop()
            seen = {
                "libraries": [name for name in LIBRARIES if name in sys.modules],
                "durations": self.durations,
                "tests_by_line": self.tracer.get_data().contexts_by_lineno(path),
                "starting": sorted(self.starting),
            }
            self.report.write_text(json.dumps(seen))
        shutil.rmtree(folder, ignore_errors=True)
        return int(code)

    def audit(self, event: str, _: object) -> None:
        if event in ("subprocess.Popen", "os.fork", "os.posix_spawn") and self.running is not None:
            self.starting.add(self.running)

    def pytest_runtest_setup(self) -> None:
        self.running = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        self.running = item.nodeid
        self.tracer.switch_context(item.nodeid)
        began = time.monotonic()
        try:
            yield
        finally:
            self.durations[item.nodeid] = time.monotonic() - began
            self.running = None
            self.tracer.switch_context("")


if __name__ == "__main__":
    sys.exit(main())
