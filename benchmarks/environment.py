"""A peer's own virtual environment, created from its hash-pinned lock file in `peers/`."""

import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).parent / "peers"


def installed(work: Path, peer: str) -> Path:
    """The folder `bin` of the environment `work/peer`, which is created if missing."""
    environment = work / peer
    binaries = environment / "bin"
    if not environment.exists():
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "--quiet", environment], check=True)
        install: list[str | Path] = [
            uv,
            "pip",
            "install",
            "--quiet",
            "--system-certs",
            "--require-hashes",
        ]
        locked: list[str | Path] = ["--python", binaries / "python", "-r", PEERS / f"{peer}.txt"]
        subprocess.run([*install, *locked], check=True)
    return binaries
