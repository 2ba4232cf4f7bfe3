"""`scripts/gpu pack`: the tree and the wheels for a machine with a GPU and without any network.

That machine has Python, torch, torchvision, CUDA's libraries and the packages in THERE. All else
that training and serving need is downloaded for its Python, at the versions of `requirements/`. One
archive holds everything and is divided into pieces, as what may be sent at once can be limited:

    scripts/gpu pack gpu-pack          # here; needs the network
    gpu-pack/piece-01/unpack           # there, for each piece, in any order
    /tmp/labrador-gpu/run              # there, with the arguments of scripts/gpu
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Collection
from pathlib import Path

from testkit.servers import ROOT

THERE = (
    *("torch", "torchvision", "triton", "nvidia-*", "cuda-*", "sympy", "mpmath", "networkx"),
    *("fsspec", "filelock", "jinja2", "markupsafe", "setuptools", "typing-extensions"),
    *("numpy", "scipy", "matplotlib", "contourpy", "cycler", "fonttools", "kiwisolver"),
    *("pyparsing", "python-dateutil", "six", "packaging", "psutil", "tqdm", "safetensors"),
    *("onnx", "onnx-ir", "onnxscript", "ml-dtypes", "protobuf"),
)
GLIBC_MINORS = range(39, 4, -1)  # pip wants each one named


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/gpu pack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("gpu-pack"))
    parser.add_argument("--python", default="3.12", help="the version there; default: 3.12")
    parser.add_argument("--piece-mb", type=float, default=56, help="largest piece; default: 56 MiB")
    parser.add_argument("--there", nargs="*", default=THERE, help="packages that need not travel")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        download(Path(folder), given.python, given.there)
        pieces = divide(Path(folder), given.folder, int(given.piece_mb * 2**20))
    for piece in pieces:
        size_mb = sum(file.stat().st_size for file in piece.iterdir()) / 2**20
        print(f"{piece}: {size_mb:.1f} MiB")
    print("there: PIECE/unpack for each, then /tmp/labrador-gpu/run --out FOLDER --work FOLDER")
    return 0


def download(wheels: Path, python: str, there: Collection[str]) -> None:
    """Download the wheels of what training and serving need, but for the packages `there`."""
    uv = Path(sys.executable).with_name("uv")
    compiling: list[str | Path] = [
        uv,
        "pip",
        "compile",
        "--quiet",
        "--system-certs",
        "pyproject.toml",
    ]
    compiling += ["--extra", "train", "--extra", "serve", "--constraints", "requirements/all.txt"]
    compiling += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
    compiling += ["--generate-hashes", "--no-annotate", "--no-header"]
    compiling += ["--no-emit-index-url", "--no-emit-find-links"]
    done = subprocess.run(compiling, cwd=ROOT, check=True, capture_output=True, text=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
        wanted.write(without(done.stdout, there))
        wanted.flush()
        getting = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--require-hashes",
        ]
        getting += ["--disable-pip-version-check", "--only-binary=:all:", "--implementation", "cp"]
        getting += ["--python-version", python, "--dest", str(wheels), "--requirement", wanted.name]
        for minor in GLIBC_MINORS:
            getting += ["--platform", f"manylinux_2_{minor}_x86_64"]
        for name in ("manylinux2014", "manylinux2010", "manylinux1", "linux"):
            getting += ["--platform", f"{name}_x86_64"]
        subprocess.run(getting, check=True)


def without(requirements: str, there: Collection[str]) -> str:
    """Pinned requirements, each with its hashes, without the packages `there` (NAME or PREFIX*)."""
    names = "|".join(re.escape(name).replace(r"\*", ".*") for name in there)
    entries = re.split(r"\n(?=\S)", requirements.strip())
    kept = [entry for entry in entries if not re.match(rf"({names})(\[.*\])?==", entry)]
    return "".join(f"{entry}\n" for entry in kept)


def divide(wheels: Path, folder: Path, piece_bytes: int) -> list[Path]:
    """Write the wheels and this checkout to `folder` in pieces; returns the pieces' folders.

    Each holds one part of an archive, the archive's sha256, and `unpack`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    archive = folder / "all.tar"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    with tarfile.open(archive, "w") as tar:
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                tar.add(ROOT / name, f"tree/{name}")
        for wheel in sorted(wheels.glob("*.whl")):
            tar.add(wheel, f"wheels/{wheel.name}")
        tar.add(Path(__file__).with_name("run_unpacked"), "run")
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    count = -(-archive.stat().st_size // piece_bytes)
    pieces = []
    with archive.open("rb") as file:
        for number in range(1, count + 1):
            piece = folder / f"piece-{number:02}"
            piece.mkdir()
            (piece / f"{digest[:8]}.{number:03}-of-{count:03}").write_bytes(file.read(piece_bytes))
            (piece / "sha256").write_text(f"{digest}  all.tar\n")
            shutil.copy(Path(__file__).with_name("unpack"), piece)
            pieces.append(piece)
    archive.unlink()
    return pieces
