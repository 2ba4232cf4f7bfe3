"""Which of a graph's nodes ONNX Runtime would run on a GPU, found on a machine without one.

The installed CUDA provider loads, registers its own kernels, and takes the nodes that it wants, but
finds libraries of `no_gpu.c` in the place of CUDA's. So what is asked is ONNX Runtime's real
partitioning, in a process of its own; nothing is computed. Needs a C compiler and readelf.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from testkit.servers import ROOT

SOURCE = Path(__file__).with_suffix(".c")
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@dataclass(frozen=True)
class Placement:
    """refused: ONNX Runtime's error if nodes may not run on the CPU, or empty; nodes: the operator
    types that each execution provider takes if they may.
    """

    refused: str
    nodes: dict[str, set[str]]


def missing() -> str:
    """What keeps this machine from finding out, or nothing."""
    if not _provider().exists():
        return "ONNX Runtime has no CUDA provider here"
    programs = [name for name in ("cc", "readelf") if shutil.which(name) is None]
    return f"missing: {' and '.join(programs)}" if programs else ""


def placements(
    models: Mapping[str, bytes],
    folder: Path,
    environment: Mapping[str, str],
    options: Mapping[str, str],
) -> dict[str, Placement]:
    """The placement of each ONNX file, which is written to `folder`. environment: as `pretending`
    makes it; options: of the CUDA provider.
    """
    files = [folder / f"{name}.onnx" for name in models]
    for file, model in zip(files, models.values(), strict=True):
        file.write_bytes(model)
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps(dict(options)), *map(str, files)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise RuntimeError(f"{done.returncode}: {done.stderr}")
    found = map(json.loads, done.stdout.splitlines())
    return {
        name: Placement(refused, {provider: set(kinds) for provider, kinds in nodes.items()})
        for name, (refused, nodes) in zip(models, found, strict=True)
    }


def pretending(folder: Path) -> dict[str, str]:
    """The environment of a process to which there is a GPU that computes nothing.

    Writes to `folder`, a new one, a library for each of CUDA's that the provider asks for; all have
    all functions. `onnxruntime.preload_dlls` must not load the real ones there.
    """
    read = ["readelf", "--wide", "--dynamic", "--dyn-syms", str(_provider())]
    text = subprocess.run(read, check=True, capture_output=True, text=True).stdout
    libraries = re.findall(r"NEEDED.*\[(libcu\w+\.so\.\d+)\]", text)
    needed = set(re.findall(r" UND (\w+)@libcu", text)) | set(re.findall(r" UND (cu\w+)", text))
    source = SOURCE.read_text()
    written = set(re.findall(r"\b(\w+)\(", source))
    rest = "".join(f"int {name}() {{ return 0; }}\n" for name in sorted(needed - written))
    folder.mkdir()
    (folder / "all.c").write_text(source + rest)
    for name in libraries:
        (folder / "version").write_text(f"{name} {{ global: *; }};")  # as CUDA's own do
        # without libc, whose development files may be missing; ONNX Runtime's process has it
        build = ["cc", "-w", "-shared", "-fPIC", "-nostdlib", "-Wl,--version-script=version"]
        subprocess.run([*build, "all.c", "-o", name], check=True, cwd=folder)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}


def _provider() -> Path:
    return Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"


def _place(file: str, options: Mapping[str, str]) -> tuple[str, dict[str, list[str]]]:
    providers = [(CUDA, options)]
    strict = ort.SessionOptions()
    strict.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    refused = ""
    try:
        ort.InferenceSession(file, strict, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        refused = str(error)
    lenient = ort.SessionOptions()
    lenient.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(file, lenient, providers=providers, enable_fallback=0)
    nodes: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    return refused, nodes


if __name__ == "__main__":
    for argument in sys.argv[2:]:
        print(json.dumps(_place(argument, json.loads(sys.argv[1]))), flush=True)
