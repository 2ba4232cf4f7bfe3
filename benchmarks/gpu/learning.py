"""Training from JPEG files, the network alone, and export through the gates."""

import io
import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu.machine import seconds
from benchmarks.gpu.plan import Plan, Values
from models import bundle
from models.errors import GateError, LabradorError
from models.manifest import Precision
from models.store import Store
from scripts import drawings
from training import __main__ as command_line
from training import run_folder
from training.export.export import export
from training.fine_tuning.loss import loss_of, precision
from training.network.resnet import Network
from training.run_folder import Run

PRECISIONS: tuple[tuple[Precision, ...], ...] = (("fp16",), ())  # int8 is not for CUDA


def draw(plan: Plan) -> Values:
    """JPEGs as large as photos: shapes on noisy backgrounds, a folder for each shape."""
    jobs = [(plan, shape, number) for number, shape in enumerate(drawings.SHAPES)]
    with ProcessPoolExecutor() as pool:
        sizes = np.concatenate(list(pool.map(_draw, *zip(*jobs, strict=True))))
    return {"images": len(sizes), "KB each": float(sizes.mean() / 1000)}


def _draw(plan: Plan, shape: str, seed: int) -> list[int]:
    random = np.random.default_rng(seed)
    folder = plan.images / shape
    folder.mkdir(parents=True, exist_ok=True)
    sizes = []
    for number in range(plan.images_per_label):
        photo = drawings.draw([shape], random).resize(plan.photo_px, Image.Resampling.BICUBIC)
        noisy = np.asarray(photo) + random.normal(0, 12, (*photo.size[::-1], 3))
        file = folder / f"{number:04}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, quality=90)
        sizes.append(file.stat().st_size)
    return sizes


def train(plan: Plan, cache: str) -> Values:
    """One training of the whole network; with the cache `none`, each epoch decodes again."""
    out = plan.run if cache == "auto" else plan.work / f"run-{cache}"
    text = _train(plan, plan.images, out, plan.device, plan.epochs, cache)
    epochs = [json.loads(line) for line in (out / run_folder.EPOCHS_FILE).open()]
    speeds = [epoch["images_per_s"] for epoch in epochs]
    values: Values = {
        "images/s, first epoch": speeds[0],
        "images/s, last epoch": speeds[-1],
        "seconds": epochs[-1]["seconds"],
        "error": epochs[-1]["error"],
        "limit": next(line for line in text.splitlines() if "limited" in line or "few" in line),
    }
    if plan.device == "cuda":
        values["GPU memory MB, tensors"] = torch.cuda.max_memory_allocated() / 2**20
        values["GPU memory MB, reserved"] = torch.cuda.max_memory_reserved() / 2**20
    return values


def _train(plan: Plan, images: Path, out: Path, device: str, epochs: int, cache: str) -> str:
    """Train with the command line, in this process; returns what it printed."""
    options: dict[str, object] = {"arch": plan.arch, "weights": "none", "image-size": plan.size_px}
    options |= {"freeze-epochs": 0, "epochs": epochs, "lr": "2e-3:2e-3", "cache": cache}
    options |= {"dtype": "bfloat16", "batch-size": plan.batch_size, "valid": plan.valid}
    options |= {"device": device, "out": out}
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    shutil.rmtree(out, ignore_errors=True)
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = command_line.main(["train", str(images), *words])
    print(printed.getvalue())
    if code:
        raise RuntimeError("training failed")
    return printed.getvalue()


def network_alone(plan: Plan) -> Values:
    """Steps on one batch that is in memory: what the trainer could reach at most."""
    device = torch.device(plan.device)
    network = Network(plan.arch, len(drawings.SHAPES)).train()
    network.to(memory_format=torch.channels_last).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), fused=plan.device == "cuda")
    images = torch.rand(plan.batch_size, 3, plan.size_px, plan.size_px, device=device) * 255
    images = images.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(len(drawings.SHAPES), (plan.batch_size,), device=device)

    def step() -> None:
        with precision(device, "bfloat16"):
            logits = network(images)
        loss_of(logits.float(), targets, "single").backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return {"images/s": plan.batch_size / seconds(plan, step)}


def write_bundle(plan: Plan) -> Values:
    """Export the run of the step `training` through the gates, or else one trained on the CPU."""
    values: Values = {}
    shutil.rmtree(plan.store, ignore_errors=True)
    try:
        path = _export(run_folder.read(plan.run), Store(plan.store), values)
    except LabradorError as error:
        values["the run of training"] = str(error)
        drawings.single_label(plan.work / "few", images_per_shape=12, seed=1)
        _train(plan, plan.work / "few", plan.work / "run-cpu", "cpu", 1, "auto")
        path = _export(run_folder.read(plan.work / "run-cpu"), Store(plan.store), values)
    for variant in bundle.read_manifest(path).variants:
        values[f"{variant.precision}: largest difference"] = variant.gate.max_difference
    return values


def _export(run: Run, store: Store, values: Values) -> Path:
    """With as many precisions as the gates let through; adds what they refused to `values`."""
    for precisions in PRECISIONS:
        try:
            return export(run, "bench", store, precisions=precisions)
        except GateError as error:
            if not precisions:
                raise
            values[f"with {' and '.join(precisions)} refused"] = str(error)
    raise AssertionError("the last of them is fp32 alone")
