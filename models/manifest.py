"""The schema of a bundle's `manifest.json`: strictly validated, immutable in memory."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Task = Literal["single", "multi"]
Precision = Literal["fp32", "fp16", "int8"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]

MANIFEST_FILE = "manifest.json"
MANIFEST_HASH_FILE = "manifest.sha256"
MODEL_FILE = "model.onnx"
GOLDEN_SCORES_FILE = "golden/scores.json"
GOLDEN_NOVELTY_FILE = "golden/novelty.json"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def first_problem(error: ValidationError) -> str:
    """Where the first mistake is, and what it is: one line, whatever it quotes."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the text"
    return " ".join(f"{where}: {first['msg']}".split())


class Preprocess(Frozen):
    """How image bytes become the network's input; everything after that is inside the graph."""

    image_size_px: int = Field(ge=8, le=1024, description="side S of the square input")
    crop_fraction: float = Field(
        gt=0, le=1, description="side of the centred box / shorter side of the image"
    )


class Tensors(Frozen):
    """Names of the graph's tensors.

    images: uint8 `[N, S, S, 3]`; scores: float32 `[N, C]`, probabilities; maps: float32
    `[N, C, h, w]`, the logits of each position, or None where the head does not allow maps;
    novelty: float32 `[N]`, how far an image is from the training images, about 1 for one of them,
    or None where it is not measured.
    """

    images: str = "images"
    scores: str = "scores"
    maps: str | None = "maps"
    novelty: str | None = None


class Metric(Frozen):
    """The value of a metric and its 95 % interval."""

    value: float
    low: float
    high: float


class Baseline(Frozen):
    """The model's predictions on its validation images: the reference for drift."""

    label_share: tuple[Probability, ...] = Field(
        description="share of the images for which each label was predicted"
    )
    confidence_edges: tuple[float, ...] = Field(description="upper edges of the bins, ascending")
    confidence_counts: tuple[int, ...] = Field(
        description="images whose highest score is in the bin"
    )

    @model_validator(mode="after")
    def _bins_match(self) -> Self:
        if len(self.confidence_edges) != len(self.confidence_counts):
            raise ValueError("confidence_edges and confidence_counts differ in length")
        return self


class Conformal(Frozen):
    """What the validation images promise, each form by its own values for them.

    See `models.conformal` for p-values of novelty and `models.coverage` for sets of labels.
    """

    file: str = Field(description="file with the values of each form")
    images: int = Field(ge=1, description="validation images whose values are kept")
    alpha: float = Field(
        gt=0,
        lt=1,
        description="largest share of images like these that is called unknown by default",
    )


class NoveltyGate(Frozen):
    """How far a form's novelty is from the trained network's."""

    tolerance: float = Field(gt=0, description="largest allowed difference, as a share of it")
    max_difference: float = Field(
        ge=0, description="largest difference seen, on golden and validation images, as a share"
    )
    changed: int = Field(
        ge=0,
        description="validation images that only one of the two calls unknown at the manifest's"
        " alpha, each by its own p-values, or at the least alpha that they can promise",
    )


class Gate(Frozen):
    """What the gate, which compares scores from bytes to probability, measured on one ONNX file."""

    tolerance: float = Field(gt=0, description="largest allowed difference of a score")
    max_difference: float = Field(
        ge=0, description="largest difference seen, on golden and validation images"
    )
    flips: int = Field(ge=0, description="decisions that changed, all within the tolerance")
    decisions: int | None = Field(
        default=None,
        ge=0,
        description="decisions compared, one per image or, multi-label, per image and label; on"
        " golden and validation images; None: not counted by the version that exported it",
    )
    images: int = Field(ge=0, description="number of validation images compared")
    loss: Metric = Field(
        description="increase of error or 1 - mAP over the trained network; one-sided 95 % bounds"
    )
    separation_loss: Metric = Field(
        description="decrease of the separation, the mean score of the images with a label minus"
        " that of those without; one-sided 95 % bounds"
    )
    tags_loss: Metric | None = Field(
        default=None,
        description="multi-label: increase of 1 - micro F1 over the trained network, both with the"
        " network's thresholds, cross-fitted; one-sided 95 % bounds; None: single-label, or not"
        " measured by the version that exported it",
    )
    probability_change: Metric | None = Field(
        default=None,
        description="root mean square difference of the probabilities from the trained network's,"
        " of each image's likeliest label or, multi-label, of every label: the calibration error"
        " changes by no more while decisions stay; one-sided 95 % bounds; None: not measured by the"
        " version that exported it",
    )
    metrics: dict[str, float] = Field(
        description="on the validation images, by ONNX Runtime, with the temperature and thresholds"
        " that were fitted on them"
    )
    own_metrics: dict[str, Metric] | None = Field(
        default=None,
        description="the metrics of the manifest, which are the trained network's, for this file:"
        " with intervals, and cross-fitted; None: not measured by the version that exported it",
    )
    novelty: NoveltyGate | None = Field(
        default=None, description="None: the network has no novelty"
    )


class Variant(Frozen):
    """One ONNX file of the network, and what its gate measured."""

    file: str
    precision: Precision
    gate: Gate


class Release(Frozen):
    """The decision to release a version in place of the released one, and the reasons.

    difference: candidate minus replaced version in error or 1 - mean average precision, on images
    that neither was trained on; low and high are one-sided 95 % bounds.
    """

    verdict: str
    replaced: int | None = Field(ge=1, description="the version released before; None: none was")
    images: int = Field(ge=0)
    margin: float = Field(gt=0, description="largest accepted upper bound of the difference")
    difference: Metric | None
    worse_labels: tuple[str, ...] = Field(description="worse by more than chance, or missing")
    allowed_labels: tuple[str, ...]
    forced: bool = Field(description="released against the verdict")


class Provenance(Frozen):
    """Where the model comes from."""

    created: str = Field(description="UTC, ISO 8601")
    git_commit: str | None
    recipe: dict[str, Any] = Field(description="as resolved for the run")
    data_fingerprint: Sha256 = Field(description="hash of the split: each image's hash and labels")
    weights: str = Field(description="the initial weights of the training")
    weights_sha256: Sha256 | None
    weights_licence: str
    libraries: dict[str, str]
    processor: str = Field(
        description="the processor the training began on, as named by `models.hardware`; it decides"
        " whether bfloat16 was used, and the last digits of every metric"
    )


class Contract(Frozen):
    """The part of a manifest that each ONNX file of the network must fulfil."""

    task: Task
    labels: tuple[str, ...]
    thresholds: tuple[Probability, ...] | None
    preprocess: Preprocess
    tensors: Tensors


class Manifest(Frozen):
    """`manifest.json`. Unknown keys, other schema versions and inconsistencies are refused."""

    schema_version: Literal[1] = 1
    name: Name
    version: int = Field(ge=1)
    task: Task
    labels: tuple[str, ...] = Field(min_length=1, description="in the order of the scores")
    thresholds: tuple[Probability, ...] | None = Field(
        description="multi-label: the lowest score at which each label is a tag; single-label: None"
    )
    temperature: float = Field(gt=0, description="divides the logits, inside the graph")
    preprocess: Preprocess
    tensors: Tensors = Tensors()
    opset: int = Field(ge=1)
    variants: tuple[Variant, ...] = Field(min_length=1, description="the first is model.onnx, fp32")
    left_out: dict[Precision, str] = Field(
        default_factory=dict,
        description="precision -> why export left it out; empty: none was, or not by a version that"
        " says so",
    )
    metrics: dict[str, Metric]
    baseline: Baseline
    conformal: Conformal | None = Field(
        default=None,
        description="what p-values and sets of labels are promised by; None: by nothing, as the"
        " run was trained before they were kept",
    )
    training_images: str = Field(
        description="file with the sha256 of each training image, one per line; a later comparison"
        " leaves these images out"
    )
    release: Release | None = Field(
        default=None, description="the decision to release this version; None: made by export"
    )
    provenance: Provenance
    files: dict[str, Sha256] = Field(
        description="path -> sha256 of every file except the manifest and its hash"
    )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if len(set(self.labels)) != len(self.labels) or "" in self.labels:
            raise ValueError("labels must be distinct and not empty")
        if self.task == "single" and self.thresholds is not None:
            raise ValueError("thresholds belong to multi-label models only")
        if self.task == "multi" and len(self.thresholds or ()) != len(self.labels):
            raise ValueError("a multi-label model needs one threshold per label")
        if len(self.baseline.label_share) != len(self.labels):
            raise ValueError("baseline.label_share needs one share per label")
        if (self.variants[0].file, self.variants[0].precision) != (MODEL_FILE, "fp32"):
            raise ValueError(f"the first variant must be {MODEL_FILE} in fp32")
        needed = [v.file for v in self.variants] + [GOLDEN_SCORES_FILE, self.training_images]
        if self.tensors.novelty is not None:
            if self.conformal is None:
                raise ValueError("novelty needs conformal: without held-out images it says nothing")
            if any(variant.gate.novelty is None for variant in self.variants):
                raise ValueError("a network with novelty needs gate.novelty in every variant")
            needed.append(GOLDEN_NOVELTY_FILE)
        if self.conformal is not None:
            needed.append(self.conformal.file)
        if missing := [file for file in needed if file not in self.files]:
            raise ValueError(f"files does not list {', '.join(missing)}")
        for file in self.files:
            path = PurePosixPath(file)
            if str(path) != file or path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{file!r} is not a relative path inside the bundle")
            if not re.fullmatch(r"[\w./-]+", file, re.ASCII):
                raise ValueError(f"{file!r} has characters other than letters, digits, . _ - /")
        return self
