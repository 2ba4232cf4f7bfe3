"""Is it better? One sentence, and what it rests on; no more is claimed than the interval shows."""

from dataclasses import dataclass

from models.wording import counted
from training.evaluation import comparison
from training.side_by_side.contrast import LESS_IS_BETTER, Contrast, direction


@dataclass(frozen=True)
class Verdict:
    headline: str
    certainty: str


def of(contrast: Contrast, images: int, others: int) -> Verdict:
    """others: number of runs that are compared with the first."""
    name = contrast.headline
    figure = contrast.figures[name]
    found = direction(name, figure)
    words = {"error": "error", "map": "mean average precision"}[name]
    points, low, high = (100 * value for value in (figure.value, figure.low, figure.high))
    change = f"{points:+.2f} points of {words}"
    if found:
        headline = f"{contrast.name} is {found} than {contrast.first}: {change}"
    else:
        headline = (
            f"These images do not show whether {contrast.name} is better than {contrast.first}:"
            f" {change}"
        )
    together = f", for all {others} comparisons together" if others > 1 else ""
    certainty = (
        f"{figure.candidate:.4f} against {figure.released:.4f} on {counted(images, 'image')} that"
        f" {'both' if others == 1 else 'all'} held out; the difference lies between {low:+.2f} and"
        f" {high:+.2f} points with 95 % confidence{together}."
    )
    if not found:
        certainty += _what_would_do(contrast, images)
    return Verdict(headline, certainty)


def _what_would_do(contrast: Contrast, images: int) -> str:
    name = contrast.headline
    figure = contrast.figures[name]
    needed = comparison.images_to_show(figure, level=contrast.level)
    if needed is None:
        return ""
    better = "fewer" if name in LESS_IS_BETTER else "more"
    worst, best = (figure.high, figure.low) if better == "fewer" else (figure.low, figure.high)
    return (
        f" It may be up to {abs(100 * best):.2f} points better or up to {abs(100 * worst):.2f}"
        f" worse; about {counted(max(needed, images + 1), 'image')} would show a difference of the"
        " size seen."
    )
