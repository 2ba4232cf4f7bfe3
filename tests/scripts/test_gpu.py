"""`scripts/gpu`, rehearsed on the CPU, and its pack, with wheels made here."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu import pack
from benchmarks.gpu.plan import small
from benchmarks.gpu.steps import Outcome, Step, steps, table, work_off
from models.golden import TOLERANCE_CPU
from scripts import drawings
from testkit import tiny_models
from testkit.servers import ROOT

STEPS = """
import json, os, pathlib, subprocess, sys, threading
name, result = sys.argv[1:]
print(f"{name} begins", flush=True)
if name == "aborts":
    os.abort()
if name == "hangs":
    server = subprocess.Popen(["sleep", "600"])
    pathlib.Path(result).with_name("server").write_text(str(server.pid))
    threading.Event().wait()
pathlib.Path(result).write_text(json.dumps({"values": {"answers/s": 12.5}, "error": ""}))
"""


def rehearse(folder: Path, *words: str) -> tuple[int, list[Outcome], str]:
    """The exit code, the outcomes and the table."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--small"]
    done = subprocess.run(
        [*command, "--out", str(folder), *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    outcomes = [Outcome(**one) for one in json.loads((folder / "gpu.json").read_text())]
    assert (folder / "gpu.md").read_text() in done.stdout
    return done.returncode, outcomes, (folder / "gpu.md").read_text()


def run(names: Sequence[str], folder: Path, minutes: float = 5) -> dict[str, Outcome]:
    """Steps of the script above, each with a limit of three seconds."""
    chosen = [Step(name, 3, "not imported") for name in names]
    written: list[int] = []
    command = [sys.executable, "-c", STEPS]
    found = work_off(chosen, command, folder, minutes, lambda done: written.append(len(done)))
    assert written == list(range(1, len(names) + 1))
    return {outcome.step: outcome for outcome in found}


def test_a_step_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    found = run(["first", "aborts", "hangs", "last"], tmp_path)
    assert found["first"].values == found["last"].values == {"answers/s": 12.5}
    assert found["aborts"].error == "ended with code -6: aborts begins"
    assert found["hangs"].error == "ended after 3 s: hangs begins"


def test_what_a_step_started_ends_with_it(tmp_path: Path) -> None:
    run(["hangs"], tmp_path)
    server = int((tmp_path / "server").read_text())
    with pytest.raises(psutil.NoSuchProcess):
        while psutil.Process(server).status() != psutil.STATUS_ZOMBIE:
            psutil.Process(server).wait(30)
        raise psutil.NoSuchProcess(server)


def test_a_step_without_time_is_not_begun(tmp_path: Path) -> None:
    assert run(["late"], tmp_path, minutes=0.01)["late"].error == "not begun: 0.01 minutes are over"
    assert not list(tmp_path.iterdir())


def test_the_table_has_a_row_for_each_step() -> None:
    good = Outcome(
        "service", 31.4, {"answers/s": 1234.5, "alone ms": 1.234, "swaps": 3, "is": "a|b"}
    )
    assert table([good, Outcome("swap", 2, error="two\nlines")]).splitlines() == [
        "| step | s | result |",
        "|---|---|---|",
        r"| service | 31 | answers/s 1,234; alone ms 1.23; swaps 3; is a\|b |",
        "| swap | 2 | **failed**: two lines |",
    ]


@pytest.mark.long
def test_sessions_trials_service_and_swap_run_on_the_cpu(tmp_path: Path) -> None:
    """With a tiny network, which has fp32 only: the session in fp16 fails, and nothing else."""
    plan = small("cpu", tmp_path / "work")
    tiny_models.add(plan.store, "bench", "single")
    drawings.single_label(plan.images, images_per_shape=2, seed=1)
    chosen = [
        "session fp",
        "trial CUDA graph, fp32",
        "service fp32",
        "swap",
    ]
    code, outcomes, text = rehearse(tmp_path, "--steps", *chosen)
    found = {outcome.step: outcome for outcome in outcomes}
    fp16 = found.pop("session fp16")
    assert fp16.error == "BundleError: the bundle has no fp16; it has fp32" and code == 1
    assert f"| **failed**: {fp16.error} |" in text
    assert {name: outcome.error for name, outcome in found.items()} == dict.fromkeys(found, "")
    assert float(found["session fp32"].values["largest difference"]) <= TOLERANCE_CPU
    served = found["service fp32, 1 worker"].values
    assert served["other answers"] == "none" and float(served["answers/s"]) > 0
    assert found["swap"].values["swaps"] == plan.swaps
    assert "== swap" in (tmp_path / "gpu.log").read_text()


@pytest.mark.long
def test_every_step_runs_on_the_cpu(tmp_path: Path) -> None:
    code, outcomes, text = rehearse(tmp_path, "--minutes", "9")
    assert [o.step for o in outcomes] == [step.name for step in steps(small("cpu", tmp_path))]
    assert code == 0 and "failed" not in text, text
    assert "trial TensorRT, fp32" in {outcome.step for outcome in outcomes}


@pytest.mark.long
def test_without_a_run_of_the_gpu_the_bundle_is_trained_on_the_cpu(tmp_path: Path) -> None:
    code, (made, served), _ = rehearse(tmp_path, "--steps", "bundle", "session fp16")
    assert (code, made.error, served.error) == (0, "", "")
    assert "run" in str(made.values["the run of training"])


def wheel(folder: Path, name: str, padding: int) -> None:
    """A package with one module, whose wheel has some `padding` bytes."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"NAME = {name!r}\n# {'-' * padding}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def test_a_pack_arrives_in_pieces_in_any_order(tmp_path: Path) -> None:
    wheels, target = tmp_path / "wheels", tmp_path / "there"
    wheels.mkdir()
    wheel(wheels, "labrador_small", 10)
    wheel(wheels, "labrador_large", 4_000_000)  # more than a piece
    pieces = pack.divide(wheels, tmp_path / "pack", 3_000_000)
    assert len(pieces) >= 3
    for piece in pieces:
        assert max(file.stat().st_size for file in piece.iterdir()) <= 3_000_000
    environment = {**os.environ, "GPU_PYTHON": sys.executable}
    said = []
    for piece in reversed(pieces):
        done = subprocess.run(
            [piece / "unpack", target], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == f"1 of {len(pieces)} pieces are here\n"
    assert said[-1] == f"complete: {target}/run takes the arguments of scripts/gpu\n"
    assert (target / "site" / "labrador_large.py").exists()
    done = subprocess.run(
        [target / "run", "--list"], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[:2] == ["machine", "tests"], done.stderr


def test_a_damaged_piece_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (piece,) = pack.divide(tmp_path / "wheels", tmp_path / "pack", 2**30)
    (part,) = piece.glob("*-of-*")
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    done = subprocess.run([piece / "unpack", tmp_path / "there"], capture_output=True, text=True)
    assert done.returncode and "all.tar: FAILED" in done.stdout
    assert not (tmp_path / "there" / "run").exists()


def test_what_is_there_does_not_travel() -> None:
    pinned = "numpy==2 \\\n    --hash=a \\\n    --hash=b\nnumpy-more==1 \\\n    --hash=c\n"
    pinned += "nvidia-cublas==13 \\\n    --hash=d\nonnxruntime-gpu[cuda]==1 \\\n    --hash=e\n"
    kept = "numpy-more==1 \\\n    --hash=c\nonnxruntime-gpu[cuda]==1 \\\n    --hash=e\n"
    assert pack.without(pinned, ["numpy", "nvidia-*", "onnxruntime"]) == kept
