"""What the driver says about the GPU; without torch, which not every step needs."""

import subprocess

from benchmarks.gpu.plan import Plan


def memory_mb(plan: Plan) -> float:
    """Memory of the GPU in use, by all processes; 0 without a GPU."""
    return float(nvidia_smi("memory.used")) if plan.device == "cuda" else 0.0


def nvidia_smi(what: str) -> str:
    query = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits", "--id=0"]
    return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
