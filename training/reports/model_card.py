"""`MODEL_CARD.md`: what was measured, in the form that Hugging Face's hub reads."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from models.manifest import Manifest, Metric, Task
from training.evaluation.evaluate import HEADLINE

CARD_FILE = "MODEL_CARD.md"
_TEMPLATE = "model_card.md"


def write(manifest: Manifest, images: int, trained_on: int) -> bytes:
    """The card of a bundle. images: held out; trained_on: images trained on."""
    environment = Environment(
        loader=PackageLoader("training.reports"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    recipe = manifest.provenance.recipe
    text = environment.get_template(_TEMPLATE).render(
        manifest.model_dump(exclude={"provenance", "variants", "metrics", "release"}),
        arch=recipe["arch"],
        data=Path(recipe["data"]).name,
        size=manifest.preprocess.image_size_px,
        crop=manifest.preprocess.crop_fraction,
        images=f"{images:,}",
        trained_on=f"{trained_on:,}",
        metrics=manifest.metrics,
        results=_results(manifest.task, manifest.metrics),
        headline=HEADLINE[manifest.task],
        variants=manifest.variants,
        provenance=manifest.provenance,
        release=manifest.release,
    )
    return text.encode()


def _results(task: Task, metrics: dict[str, Metric]) -> list[dict[str, object]]:
    """The hub's names for the figures; there, more is better."""
    if task == "single":
        return [
            _result("accuracy", "Accuracy", 1 - metrics["error"].value),
            _result("accuracy", "Top-5 accuracy", 1 - metrics["top5_error"].value),
            _result("f1", "Macro F1", metrics["macro_f1"].value),
        ]
    return [
        _result("mean_average_precision", "Mean average precision", metrics["map"].value),
        _result("f1", "Micro F1", metrics["micro_f1"].value),
        _result("f1", "Macro F1", metrics["macro_f1"].value),
    ]


def _result(kind: str, name: str, value: float) -> dict[str, object]:
    return {"type": kind, "name": name, "value": round(value, 5)}
