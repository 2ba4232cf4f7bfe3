"""`MODEL_CARD.md`: the evaluation results, in the form that Hugging Face's hub reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from models import conformal
from models.manifest import Conformal, Metric, Precision, Release, Task, Variant
from models.variants import differing, served_on
from models.wording import counted
from training.evaluation.evaluate import HEADLINE
from training.recipe import name_of, sources_of
from training.run_folder import Outcome

CARD_FILE = "MODEL_CARD.md"
_TEMPLATE = "model_card.md"


def write(
    name: str,
    version: int,
    outcome: Outcome,
    variants: Sequence[Variant],
    sizes: Mapping[str, int],
    left_out: Mapping[Precision, str],
    release: Release | None,
    images: int,
    trained_on: int,
    promised: Conformal | None = None,
) -> bytes:
    """The card of a run's bundle. sizes: of each variant's file, in bytes; left_out: why the
    other forms are not in it; images, trained_on: number of validation and training images;
    promised: the manifest's, None for a network without novelty.
    """
    environment = Environment(
        loader=PackageLoader("training.reports"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    text = environment.get_template(_TEMPLATE).render(
        name=name,
        version=version,
        task=outcome.task,
        labels=outcome.labels,
        arch=outcome.arch,
        data=name_of(
            [_name(data, outcome) for data in sources_of(outcome.provenance.recipe["data"])]
        ),
        size=outcome.preprocess.image_size_px,
        crop=outcome.preprocess.crop_fraction,
        counted=counted,
        images=images,
        trained_on=trained_on,
        metrics=outcome.metrics,
        results=_results(outcome.task, outcome.metrics),
        headline=HEADLINE[outcome.task],
        variants=[
            {
                "file": variant.file,
                "precision": variant.precision,
                "megabytes": sizes[variant.file] / 1e6,
                "gate": variant.gate,
                "metrics": variant.gate.own_metrics,
                "differing": differing(variant.gate),
                "served_on": served_on(variant),
            }
            for variant in variants
        ],
        left_out=left_out,
        provenance=outcome.provenance,
        release=release,
        conformal=promised,
        least_alpha=promised and conformal.least_alpha(promised.images),
    )
    return text.encode()


def _name(data: str, outcome: Outcome) -> str:
    """The name of the folder or file; of the folder that the images are in where DATA is `.`."""
    return Path(data).name or Path(outcome.root).name


def _results(task: Task, metrics: dict[str, Metric]) -> list[dict[str, object]]:
    """The metrics under the hub's names; there, more is better."""
    if task == "single":
        top5 = metrics.get("top5_error")  # none of five labels or fewer
        return [
            _result("accuracy", "Accuracy", 1 - metrics["error"].value),
            *([_result("accuracy", "Top-5 accuracy", 1 - top5.value)] if top5 else []),
            _result("f1", "Macro F1", metrics["macro_f1"].value),
        ]
    return [
        _result("mean_average_precision", "Mean average precision", metrics["map"].value),
        _result("f1", "Micro F1", metrics["micro_f1"].value),
        _result("f1", "Macro F1", metrics["macro_f1"].value),
    ]


def _result(kind: str, name: str, value: float) -> dict[str, object]:
    return {"type": kind, "name": name, "value": round(value, 5)}
