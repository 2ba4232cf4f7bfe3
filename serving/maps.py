"""`maps=true`: where the network looked, beside each label of an answer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.conformal import Novelty
from models.decision import check_finite
from models.errors import BadParameter
from models.evidence import evidence, rival
from models.manifest import Manifest
from models.preprocess import Box
from serving.parameters import switch

_DECIMALS = 3  # of a map, in nats: a picture of it shows less


@dataclass(frozen=True, slots=True)
class Look:
    """One image's scores `[C]`; its maps `[C, h, w]` and the box they cover, if asked for; how
    strange it is, at the model's own alpha, if the network measures that.
    """

    scores: NDArray[np.float32]
    maps: NDArray[np.float32] | None = None
    box: Box | None = None
    novelty: Novelty | None = None

    @property
    def is_unknown(self) -> bool:
        """At the model's own alpha, whatever the request's: what is counted."""
        return self.novelty is not None and self.novelty.unknown


def wanted(parameters: dict[str, str], manifest: Manifest) -> bool:
    """Raises BadParameter for maps of a network that has none."""
    maps = switch("maps", parameters.get("maps", "false"))
    if maps and manifest.tensors.maps is None:
        raise BadParameter(f"maps=true: {manifest.name}:{manifest.version} has no maps")
    return maps


def beside(decisions: list[dict[str, Any]], look: Look, manifest: Manifest) -> dict[str, Any]:
    """Add its `map` to each of an image's predictions or tags; returns the image's `box`.

    Raises ModelFailed if a map is not finite.
    """
    if look.maps is None or look.box is None:
        return {}
    check_finite(look.maps, manifest, "maps")
    numbers = {label: number for number, label in enumerate(manifest.labels)}
    for decision in decisions:
        number, against = numbers[decision["label"]], None
        if manifest.task == "single":
            against = rival(look.scores, number)
            decision["against"] = manifest.labels[against]
        found = evidence(look.maps, number, against)
        decision["map"] = found.astype(np.float64).round(_DECIMALS).tolist()
    return {"box": look.box}
