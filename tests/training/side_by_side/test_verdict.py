from dataclasses import replace

import numpy as np

from training.evaluation import comparison
from training.evaluation.comparison import Difference
from training.side_by_side import contrast, verdict
from training.side_by_side.contrast import Contrast


def of(value: float, low: float, high: float, others: int = 1, metric: str = "error") -> str:
    task = "single" if metric == "error" else "multi"
    figures = {metric: Difference(0.3 + value, 0.3, low, high, std=0.4)}
    found = Contrast("runs/a", "runs/b", "single", 0.975, figures, (), (), (), ())
    found = replace(found, task=task)  # type: ignore[arg-type]
    said = verdict.of(found, 400, others)
    return f"{said.headline} | {said.certainty}"


def test_a_difference_beyond_the_interval_is_said() -> None:
    said = of(-0.05, -0.08, -0.02)
    assert said.startswith("runs/b is better than runs/a: -5.00 points of error | ")
    assert "0.2500 against 0.3000 on 400 images that both held out" in said
    assert "between -8.00 and -2.00 points with 95 % confidence." in said
    assert "would show" not in said
    assert of(0.05, 0.02, 0.08).startswith("runs/b is worse than runs/a: +5.00 points of error")
    better = of(0.05, 0.02, 0.08, metric="map")
    assert better.startswith("runs/b is better than runs/a: +5.00 points of mean average precision")


def test_nothing_is_claimed_of_an_interval_that_contains_0() -> None:
    said = of(-0.01, -0.04, 0.02)
    assert said.startswith("These images do not show whether runs/b is better than runs/a: -1.00")
    assert "may be up to 4.00 points better or up to 2.00 worse" in said
    needed = comparison.images_to_show(Difference(0.29, 0.3, -0.04, 0.02, std=0.4), level=0.975)
    assert f"about {needed:,} images would show" in said
    said = of(0.01, -0.04, 0.02, metric="map")
    assert "may be up to 2.00 points better or up to 4.00 worse" in said
    assert "would show" not in of(0.0, -0.03, 0.03)


def test_with_several_runs_the_confidence_is_that_of_all_comparisons() -> None:
    said = of(-0.05, -0.08, -0.02, others=3)
    assert "that all held out" in said
    assert "95 % confidence, for all 3 comparisons together" in said


def test_as_many_images_as_it_asks_for_show_the_difference_in_four_cases_of_five() -> None:
    random = np.random.default_rng(0)
    pilot = np.repeat([0, 1, 2], [850, 100, 50])
    seen = comparison.errors(pilot == 2, pilot == 1, level=0.975)
    needed = comparison.images_to_show(seen, level=0.975)
    assert needed is not None
    shown = 0
    for _ in range(400):
        kinds = random.choice(3, needed, p=[0.85, 0.1, 0.05])
        found = comparison.errors(kinds == 2, kinds == 1, level=0.975)
        shown += contrast.direction("error", found) == "better"
    assert 0.75 < shown / 400 < 0.86
