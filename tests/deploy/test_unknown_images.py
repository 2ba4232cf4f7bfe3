"""The bound on chance of LabradorUnknown: as recorded, and how often chance really exceeds it."""

import math
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from scipy.stats import betabinom

from benchmarks.drift import chance_of_unknown
from testkit.prometheus import RULES

WINDOWS = [  # alpha, images in the window, validation images
    (alpha, n, m)
    for alpha in (0.01, 0.02, 0.05, 0.1)
    for n in (200, 1000, 10_000)
    for m in (99, 199, 1000, 10_000)
]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing")
def test_the_recorded_bound_is_that_of_the_formula(tmp_path: Path) -> None:
    series, samples = [], []
    for number, (alpha, n, m) in enumerate(WINDOWS):
        labels = f'{{job="labrador",instance="a",model="m{number}"}}'
        series += [
            {"series": f"labrador_baseline_alpha{labels}", "values": f"{alpha}x72"},
            {"series": f"labrador_baseline_novelty_images{labels}", "values": f"{m}x72"},
            {"series": f"labrador_confidence_count{labels}", "values": f"{n}x72"},
        ]
        bound = round(chance_of_unknown(alpha, n, m), 6)
        samples.append({"labels": f'{{job="labrador",model="m{number}"}}', "value": bound})
    expression = "round(job_model:labrador_unknown:chance6h, 0.000001)"
    test = {"expr": expression, "eval_time": "1h", "exp_samples": samples}
    content = {
        "rule_files": [str(RULES / "recording.yml")],
        "evaluation_interval": "5m",
        "tests": [{"interval": "5m", "input_series": series, "promql_expr_test": [test]}],
    }
    file = tmp_path / "bound.yml"
    file.write_text(yaml.safe_dump(content))
    tested = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def exceeded(alpha: float, n: int, m: int, bound: float) -> float:
    """How probable it is that more than this share of n images is unknown, by m validation images.

    An image is unknown if fewer than k = ⌊alpha (m + 1)⌋ of them are as strange. Of all images, the
    share of those that are so strange is Beta(k, m + 1 - k), and n of them are drawn.
    """
    rank = math.floor(alpha * (m + 1) + 1e-9)
    return float(betabinom.sf(math.floor(bound * n), n, rank, m + 1 - rank))


@pytest.mark.parametrize(("alpha", "n", "m"), WINDOWS)
def test_chance_exceeds_the_bound_about_once_in_a_thousand_times(
    alpha: float, n: int, m: int
) -> None:
    assert 2e-4 < exceeded(alpha, n, m, chance_of_unknown(alpha, n, m)) < 1.5e-3


def test_a_bound_without_the_validation_images_or_the_skew_is_exceeded_more_often() -> None:
    alpha, n, m = 0.01, 10_000, 1000
    binomial = alpha + 3.09 * math.sqrt(alpha * (1 - alpha) / n)
    symmetric = alpha + 3.09 * math.sqrt(alpha * (1 - alpha) * (1 / n + 1 / m))
    assert exceeded(alpha, n, m, binomial) > 0.1
    assert exceeded(alpha, n, m, symmetric) > 3e-3
