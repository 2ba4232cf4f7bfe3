"""`novelty` and, with `coverage=`, `set`: what held-out images promise, beside an answer."""

from dataclasses import asdict, dataclass
from typing import Any

from models import conformal, coverage
from models.conformal import HeldOut, Novelty
from models.decision import check_finite
from models.manifest import Manifest
from models.outputs import Output
from serving.maps import Look
from serving.parameters import number


@dataclass(frozen=True, slots=True)
class Promises:
    """What one request asks for; held_out: of the form that answers it, None if there are none.

    alpha: of the request, None for the model's own; coverage: of `set`, None for no set.
    """

    manifest: Manifest
    held_out: HeldOut | None
    alpha: float | None = None
    coverage: float | None = None

    def beside(self, look: Look) -> dict[str, Any]:
        """What the answer for one image says beside its predictions or tags."""
        found: dict[str, Any] = {}
        if self.coverage is not None and self.held_out is not None:
            labels = coverage.label_set(look.scores, self.coverage, self.held_out)
            found["set"] = [self.manifest.labels[label] for label in labels]
        if (novelty := look.novelty) is not None:
            if self.alpha is not None:
                novelty = Novelty(novelty.p_value, novelty.p_value <= self.alpha)
            found["novelty"] = asdict(novelty)
        return found


def promises_of(
    parameters: dict[str, str], manifest: Manifest, held_out: HeldOut | None
) -> Promises:
    """Raises BadParameter at once for what the held-out images cannot promise."""
    alpha = share = None
    if "alpha" in parameters:
        alpha = number("alpha", parameters["alpha"])
        conformal.check_alpha(alpha, manifest)
    if "coverage" in parameters:
        share = number("coverage", parameters["coverage"])
        coverage.check_coverage(share, manifest)
    return Promises(manifest, held_out, alpha, share)


def seen(output: Output, manifest: Manifest, held_out: HeldOut | None) -> Look:
    """What the network gives for one image, without maps; ModelFailed for values not finite."""
    check_finite(output.scores, manifest)
    return Look(output.scores, novelty=judged(output, manifest, held_out))


def judged(output: Output, manifest: Manifest, held_out: HeldOut | None) -> Novelty | None:
    """How strange one image is, at the model's own alpha; None if the network does not measure it.

    Raises ModelFailed for a novelty that is not finite, which would be no stranger than any.
    """
    if output.novelty is None or held_out is None or manifest.conformal is None:
        return None
    check_finite(output.novelty, manifest, "novelty")
    return conformal.judge(output.novelty, held_out, manifest.conformal.alpha)
