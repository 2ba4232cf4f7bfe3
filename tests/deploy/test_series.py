"""How many series a Prometheus keeps of this service, which is what it costs there."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from testkit import novel_models

LABELS = 1000
PODS = 8
# One model with 1,000 labels: two series for each label, and those that do not depend on labels,
# above all the histograms: 18 series each, for 5 stages, 2 endpoints with and without the model.
SERIES_OF_A_POD_MAX = 2 * LABELS + 500

SCRAPE = """
import sys
from pathlib import Path
from typing import get_args
import numpy as np
from models import bundle, errors
from models.manifest import Precision
from serving.metrics import Metrics
from serving.timing import Speed
metrics = Metrics(Path(sys.argv[1]))
manifest = bundle.read_manifest(Path(sys.argv[2]))
labels = [f"label {number}" for number in range(int(sys.argv[3]))]
baseline = manifest.baseline.model_copy(update={"label_share": [0.0] * len(labels)})
manifest = manifest.model_copy(update={"labels": labels, "baseline": baseline})
metrics.expect(manifest)
own = metrics.of(manifest.name)
for endpoint, model in (
    *[(path, name) for path in ("classify", "tag") for name in ("", manifest.name)],
    *[(path, "") for path in ("models", "livez", "readyz", "metrics", "docs", "other")],
):
    metrics.request_seconds.labels(endpoint, model).observe(1)
    for code in (200, 400, 401, 404, 408, 413, 415, 422, 429, 499, 500, 503, 504):
        metrics.requests.labels(endpoint, model, code).inc()
for error in [errors.LabradorError, *errors.LabradorError.__subclasses__()]:
    metrics.rejected.labels(error.code).inc()
speeds = [
    Speed("SomeProvider", precision, batch, 1.0)
    for precision in get_args(Precision)
    for batch in (1, 8)
]
print(metrics.scrape([(manifest, manifest.variants[0], "SomeProvider", speeds)]).decode())
"""


def _series(folder: Path, labels: int) -> Counter[str]:
    """Metric -> number of series, of a service in which everything has happened once."""
    novel_models.add(folder / "store", "colours", "single")
    bundle = folder / "store" / "colours" / "1"
    run = [sys.executable, "-c", SCRAPE, str(folder), str(bundle), str(labels)]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    return Counter(re.findall(r"^(labrador_\w+)", done.stdout, re.MULTILINE))


def test_a_model_with_a_thousand_labels_on_eight_pods_stays_within_a_bound(tmp_path: Path) -> None:
    counted = _series(tmp_path, LABELS)
    by_label = [name for name, count in counted.items() if count >= LABELS]
    assert sorted(by_label) == ["labrador_baseline_share", "labrador_predictions_total"]
    assert counted.total() <= SERIES_OF_A_POD_MAX
    assert PODS * counted.total() <= 20_000
