"""Metrics of GPUs, read by NVIDIA's own Python package, from a library that says there are two."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testkit.servers import ROOT

SCRAPE = (
    "import sys; from pathlib import Path; from serving.observability.metrics import Metrics\n"
    "text = Metrics(Path(sys.argv[1])).scrape([]).decode()\n"
    "print(*[line for line in text.splitlines() if line.startswith('labrador_gpu')], sep='\\n')\n"
    "print('pynvml' in sys.modules, file=sys.stderr)"
)


def _scrape(folder: Path, libraries: Path) -> tuple[list[str], bool]:
    """The lines about GPUs, and whether pynvml was imported."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    run = [sys.executable, "-c", SCRAPE, str(folder)]
    done = subprocess.run(run, check=True, capture_output=True, text=True, env=environment)
    return done.stdout.split("\n")[:-1], done.stderr.strip() == "True"


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_each_gpu_has_its_memory_and_its_utilisation_where_it_has_one(tmp_path: Path) -> None:
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    library = libraries / "libnvidia-ml.so.1"
    source = ROOT / "testkit" / "nvml.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    lines, _ = _scrape(tmp_path, libraries)
    assert {name: float(value) for name, _, value in (line.partition(" ") for line in lines)} == {
        'labrador_gpu_memory_bytes{gpu="0"}': 80 * 2**30,
        'labrador_gpu_memory_bytes{gpu="1"}': 20 * 2**30,
        'labrador_gpu_memory_used_bytes{gpu="0"}': 3 * 2**30,
        'labrador_gpu_memory_used_bytes{gpu="1"}': 3 * 2**30,
        'labrador_gpu_utilisation_ratio{gpu="0"}': 0.75,
    }


def test_without_a_driver_there_is_no_metric_and_no_import(tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    lines, imported = _scrape(tmp_path, tmp_path)
    assert lines == [""]
    assert not imported
