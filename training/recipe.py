"""The recipe of a run: every option, validated once, and kept in the run as resolved."""

import shlex
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from models.errors import RecipeError
from models.manifest import Frozen, Preprocess, Task

Arch = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
Device = Literal["auto", "cuda", "cpu"]
Dtype = Literal["auto", "bfloat16", "float32"]


class Recipe(Frozen):
    """The options of `train`; a TOML file given with `--recipe` has the same names."""

    data: str | tuple[str, ...] = Field(
        description="folder of class folders (or of train/, valid/, test/ with class folders), CSV,"
        " lists of files, Hugging Face's metadata.csv or .jsonl or Parquet, Oxford-IIIT Pet or"
        " PASCAL VOC folder, or captured images; or oxford-pets or voc2007, downloaded to"
        " $LABRADOR_CACHE or ~/.cache/labrador. Several are merged; the split of the first stays as"
        " it is"
    )
    pattern: str | None = Field(
        None, description="regular expression on the file name; group 1 is the label"
    )
    images: str | None = Field(
        None, description="folder that the file names of a CSV or of lists are relative to"
    )
    separator: str | None = Field(
        None,
        min_length=1,
        description="what separates several labels in a CSV, as , or ; or |; if omitted, spaces",
    )
    task: Task | None = Field(
        None, description="single or multi; if omitted, inferred from the data"
    )
    valid: float = Field(
        0.2, gt=0, lt=1, description="fraction of images for validation if no split is given"
    )
    seed: int = Field(42, ge=0, description="seed of the split and of training")
    relabel: str | None = Field(
        None, description="CSV with the columns from,to: labels to rename or merge"
    )
    quarantine: str | None = Field(
        None,
        description="CSV with the columns file,reason, as inspect writes it: images to leave out",
    )
    correct: str | None = Field(
        None,
        description="CSV with the columns file,given,suggested, as inspect --labels writes it:"
        " labels to change",
    )
    new_labels: str | None = Field(
        None,
        description="labels that --correct may give although no image of DATA has them yet,"
        " separated by commas",
    )

    arch: Arch = Field("resnet18", description="resnet18, 34, 50, 101 or 152")
    weights: str = Field(
        "imagenet",
        description="imagenet (torchvision's), none, or a .pth or .safetensors file of torchvision,"
        " timm or transformers",
    )
    image_size: int = Field(224, ge=32, le=1024, description="side of the square input, pixels")
    crop_fraction: float = Field(
        0.9,
        gt=0,
        le=1,
        description="evaluation: side of the centre crop / shorter side of the image",
    )

    epochs: int = Field(5, ge=0, description="epochs that train the whole network")
    freeze_epochs: int = Field(1, ge=0, description="epochs that train the head alone, first")
    lr: str = Field(
        "8e-3",
        coerce_numbers_to_str=True,  # as a TOML file may have it
        description="peak learning rate of the head alone; the whole network then trains with half"
        " of it at the head, falling to a hundredth of that at the stem. Or STEM:HEAD for the"
        " learning rates of the whole network, or auto: the valley that lr-find suggests",
    )
    batch_size: int = Field(64, ge=2, description="images per step")
    weight_decay: float = Field(
        0.05, ge=0, description="weight decay of AdamW; none on norms and biases"
    )

    balance: Literal["none", "root"] = Field(
        "none",
        description="root: see rare labels more often, each image by the inverse root of how many"
        " have its rarest label; none: every image once an epoch",
    )
    early_stop: int | None = Field(
        None,
        ge=1,
        description="stop after this many epochs without a better validation metric, error or mAP,"
        " and keep the best epoch's weights; if omitted, train all epochs and keep the last's",
    )

    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    rotation: float = Field(10.0, ge=0, le=180, description="largest rotation, degrees")
    scale: float = Field(
        0.5, gt=0, le=1, description="smallest fraction of the area that a crop keeps"
    )
    warp: float = Field(0.1, ge=0, le=0.5, description="strength of the perspective warp")
    light: float = Field(0.2, ge=0, lt=1, description="strength of brightness and contrast changes")

    norms: Literal["auto", "batch", "fixed"] = Field(
        "auto",
        description="statistics that the norms use while the whole network is trained: batch, each"
        " batch's, or fixed, those of the pretrained weights; auto: fixed, but batch with --weights"
        " none",
    )
    cache: Literal["auto", "gpu", "memory", "none"] = Field(
        "auto",
        description="where decoded images are kept: gpu, memory, or none (decoded again each"
        " epoch); auto: the first that can hold them in half of its free memory",
    )
    workers: int | None = Field(
        None,
        ge=0,
        description="processes that decode if there is no cache; if omitted, one per core",
    )
    checkpoint_s: float = Field(
        600, ge=0, description="seconds between checkpoints; one is written after each epoch anyway"
    )
    device: Device = Field("auto", description="auto (cuda where there is one), cuda or cpu")
    dtype: Dtype = Field(
        "auto",
        description="precision of training: bfloat16 (mixed precision) or float32; auto: bfloat16"
        " where the hardware supports it. Evaluation and export compute in float32",
    )

    @field_validator("data")
    @classmethod
    def _each_is_given_once(cls, data: str | tuple[str, ...]) -> str | tuple[str, ...]:
        several = sources_of(data)
        if not several:
            raise ValueError("give at least one")
        if len(set(several)) < len(several):
            raise ValueError("give each of them once")
        return several[0] if len(several) == 1 else several

    @field_validator("lr")
    @classmethod
    def _learning_rates_are_positive(cls, text: str) -> str:
        if text == "auto":
            return text
        try:
            rates = [float(part) for part in text.split(":")]
        except ValueError:
            rates = []
        if not 1 <= len(rates) <= 2 or not all(0 < rate < float("inf") for rate in rates):
            raise ValueError("use a positive number, STEM:HEAD as in 1e-6:1e-4, or auto")
        return text

    @model_validator(mode="after")
    def _trains_at_all(self) -> Self:
        if self.epochs + self.freeze_epochs == 0:
            raise ValueError("epochs and freeze_epochs are both 0: nothing would be trained")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """Every DATA, in order."""
        return sources_of(self.data)

    @property
    def data_name(self) -> str:
        """DATA in a message."""
        return name_of(self.data)

    @property
    def preprocess(self) -> Preprocess:
        """How validation images and served images become the network's input."""
        return Preprocess(image_size_px=self.image_size, crop_fraction=self.crop_fraction)

    def steps(self, images: int) -> int:
        """Steps per epoch with this many training images."""
        return -(-images // self.batch_size)

    @property
    def norms_by_batch(self) -> bool:
        """Whether the norms use each batch's statistics while the whole network is trained."""
        return self.norms == "batch" or (self.norms == "auto" and self.weights == "none")

    @property
    def presize_px(self) -> int:
        """Side of the squares that images are presized to: a quarter more than the input's."""
        return round(self.image_size * 1.25)

    @property
    def head_lr(self) -> float:
        """Peak learning rate of the head while the rest is frozen."""
        return float(self.lr.split(":")[-1])

    @property
    def whole_lrs(self) -> tuple[float, float]:
        """Peak learning rates (stem, head) of the whole network, as in fastai's `fine_tune`."""
        stem, colon, head = self.lr.partition(":")
        return (float(stem), float(head)) if colon else (float(stem) / 200, float(stem) / 2)


GROUPS: Mapping[str, Sequence[str]] = {  # every option of a recipe but DATA, as help shows them
    "data": (
        "pattern",
        "images",
        "separator",
        "task",
        "valid",
        "seed",
        "relabel",
        "quarantine",
        "correct",
        "new_labels",
    ),
    "network": ("arch", "weights", "image_size", "crop_fraction", "norms"),
    "schedule": (
        "epochs",
        "freeze_epochs",
        "lr",
        "batch_size",
        "weight_decay",
        "balance",
        "early_stop",
    ),
    "augmentation": ("flip", "rotation", "scale", "warp", "light"),
    "running": ("device", "dtype", "cache", "workers", "checkpoint_s"),
}


def sources_of(data: str | Sequence[str]) -> tuple[str, ...]:
    """Every DATA of a recipe's `data`, which is one or several."""
    return (data,) if isinstance(data, str) else tuple(data)


def name_of(data: str | Sequence[str]) -> str:
    """`photos and captured/pets`."""
    return " and ".join(sources_of(data))


_OF_DATA = ("pattern", "images", "separator", "relabel", "correct", "new_labels", "task")


def data_arguments(recipe: Recipe) -> str:
    """DATA and its options as on a command line, without the quarantine list."""
    return _arguments(recipe, _OF_DATA)


def train_arguments(recipe: Recipe) -> str:
    """The recipe as arguments of `train`, without the options that have their default."""
    return _arguments(recipe, [name for name in Recipe.model_fields if name != "data"])


def _arguments(recipe: Recipe, names: Sequence[str]) -> str:
    arguments = [*recipe.sources]
    for name in names:
        if (value := getattr(recipe, name)) != Recipe.model_fields[name].default:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(arguments)


def resolve(options: dict[str, Any], file: Path | None = None) -> Recipe:
    """The recipe of a TOML file, overridden by `options`; RecipeError names what is wrong."""
    from_file: dict[str, Any] = {}
    if file is not None:
        try:
            from_file = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise RecipeError(f"{file} cannot be read as TOML: {error}") from error
    try:
        return Recipe.model_validate({**from_file, **options})
    except ValidationError as error:
        raise RecipeError("; ".join(map(_explain, error.errors()))) from error


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "extra_forbidden":
        return f"unknown option {name}; valid: {', '.join(Recipe.model_fields)}"
    if problem["type"] == "missing":
        return f"{name} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}={problem['input']!r}: {message}" if problem["loc"] else message
