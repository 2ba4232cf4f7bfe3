"""What held-out images promise: how strange an image is, as a p-value (split conformal).

The file that a manifest names has, for each form of the network, the novelty of every held-out
image and, single-label, the probability of the labels ranked before its right one, both ascending.
Of images like those, at most a share `alpha` has a p-value of `alpha` or less, whatever the network
and its precision (Vovk, Gammerman and Shafer, 2005).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError, model_validator

from models.bundle import Bundle
from models.errors import BadParameter, BundleError
from models.manifest import Frozen, Manifest, Precision, first_problem

CONFORMAL_FILE = "conformal.json"
ALPHA = 0.01
MOST = 10_000  # images that are kept: p-values in steps of 0.0001


@dataclass(frozen=True, slots=True)
class Novelty:
    """How strange an image is, as answered: the p-value, and whether that is at most alpha."""

    p_value: float
    unknown: bool


@dataclass(frozen=True)
class HeldOut:
    """One form's values for the held-out images, ascending: novelty float32 `[n]`, None if it has
    none; mass_before float64 `[n]`, None for a multi-label model.
    """

    novelty: NDArray[np.float32] | None
    mass_before: NDArray[np.float64] | None


class _Values(Frozen):
    novelty: tuple[float, ...] | None = None
    mass_before: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _ascend(self) -> "_Values":
        for values in (self.novelty, self.mass_before):
            if values is not None and any(a > b for a, b in zip(values, values[1:], strict=False)):
                raise ValueError("values must ascend")
        return self


class _File(Frozen):
    forms: dict[Precision, _Values]


def file_of(forms: Mapping[Precision, HeldOut]) -> bytes:
    """The content of the file, exactly. Values may be in any order."""

    def listed(values: NDArray[Any] | None) -> list[float] | None:
        return None if values is None else np.sort(values).tolist()

    table = {
        precision: {"novelty": listed(own.novelty), "mass_before": listed(own.mass_before)}
        for precision, own in forms.items()
    }
    return json.dumps({"forms": table}).encode()


def parse(content: bytes, name: str) -> dict[Precision, HeldOut]:
    """The forms in a file's content. Raises BundleError, which names the file `name`."""
    try:
        found = _File.model_validate_json(content)
    except ValidationError as error:
        raise BundleError(f"{name} is invalid: {first_problem(error)}") from error
    return {
        precision: HeldOut(
            None if own.novelty is None else np.array(own.novelty, np.float32),
            None if own.mass_before is None else np.array(own.mass_before, np.float64),
        )
        for precision, own in found.forms.items()
    }


def held_out(bundle: Bundle, precision: Precision) -> HeldOut | None:
    """The values of one form of a bundle's network; None if the bundle has none.

    Raises BundleError if the file does not have what the manifest promises.
    """
    manifest = bundle.manifest
    if manifest.conformal is None:
        return None
    name = manifest.conformal.file
    forms = parse(bundle.files[name], f"{bundle.path / name}")
    if precision not in forms:
        raise BundleError(f"{bundle.path / name} has no {precision}; it has {', '.join(forms)}")
    own = forms[precision]
    promised = {"novelty": manifest.tensors.novelty is not None}
    promised["mass_before"] = manifest.task == "single"
    for field, there in promised.items():
        count = manifest.conformal.images if there else None
        values: NDArray[Any] | None = getattr(own, field)
        found = None if values is None else len(values)
        if found != count:
            raise BundleError(
                f"{bundle.path / name}: {precision} has {found or 'no'} values of {field}, not"
                f" {count or 'none'}"
            )
    return own


def p_values(novelty: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float64]:
    """(1 + how many held-out images are at least as strange) / (n + 1), of each novelty `[N]`.

    known: the held-out images' novelties `[n]`, ascending.
    """
    at_least = len(known) - np.searchsorted(known, novelty, side="left")
    return np.asarray((1 + at_least) / (len(known) + 1), np.float64)


def p_values_among(novelty: NDArray[np.float32]) -> NDArray[np.float64]:
    """The p-value of each held-out image `[n]` by the others."""
    at_least = len(novelty) - np.searchsorted(np.sort(novelty), novelty, side="left")  # and itself
    return np.asarray(at_least / len(novelty), np.float64)


def judge(novelty: np.float32 | float, held_out: HeldOut, alpha: float) -> Novelty:
    """The answer about one image. Only for a form that measures novelty."""
    if held_out.novelty is None:
        raise ValueError("this form has no novelty")
    p_value = float(p_values(np.array([novelty], np.float32), held_out.novelty)[0])
    return Novelty(p_value, p_value <= alpha)


def least_alpha(images: int) -> float:
    """The smallest alpha that so many held-out images can promise: below it nothing is unknown."""
    return 1 / (images + 1)


def images_for(alpha: float) -> int:
    """How many held-out images an alpha needs."""
    return math.ceil(1 / alpha - 1 - 1e-9)


def check_alpha(alpha: float, manifest: Manifest) -> None:
    """Raises BadParameter unless the manifest's held-out images can promise this alpha < 1."""
    if manifest.conformal is None or manifest.tensors.novelty is None:
        raise BadParameter(f"alpha={alpha}: {manifest.name}:{manifest.version} has no novelty")
    least = least_alpha(manifest.conformal.images)
    if not least <= alpha < 1:
        raise BadParameter(
            f"alpha={alpha}: use {math.ceil(1e5 * least) / 1e5:g}, the least that"
            f" {manifest.conformal.images:,} held-out images can promise, to less than 1"
        )


def chosen(images: Sequence[str]) -> list[int]:
    """The rows of the images that are kept, by their sha256: all, or the `MOST` smallest."""
    return sorted(range(len(images)), key=lambda row: images[row])[:MOST]
