import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models import bundle
from serving.observability.metrics import Metrics
from serving.observability.observation import Observation
from serving.timing import Speed

WORKER = """
import sys
from pathlib import Path
from serving.observability.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
metrics.requests.labels("classify", "colours", 200).inc(2)
metrics.queue_images.labels("colours").set(5)
metrics.model_ready.labels("colours").set(0)
"""


def test_counters_are_summed_over_workers_and_gauges_over_living_ones(tmp_path: Path) -> None:
    for _ in range(2):
        subprocess.run([sys.executable, "-c", WORKER, str(tmp_path)], check=True)
    script = WORKER + "print(metrics.scrape([]).decode())"
    run = [sys.executable, "-c", script, str(tmp_path)]
    text = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert 'requests_total{code="200",endpoint="classify",model="colours"} 6.0' in text
    assert 'labrador_queue_images{model="colours"} 5.0' in text


def test_model_info_names_what_runs(metrics: Metrics, store: Path) -> None:
    manifest = bundle.read_manifest(store / "tags" / "1")
    text = metrics.scrape([(manifest, manifest.variants[0], "SomeProvider", ())]).decode()
    assert (
        'labrador_model_info{model="tags",precision="fp32",provider="SomeProvider",'
        f'sha256="{manifest.files["model.onnx"]}",version="1"}} 1.0' in text
    )
    assert "labrador_model_info{" not in metrics.scrape([]).decode()


def test_the_speeds_of_the_forms_are_those_of_what_is_served(metrics: Metrics, store: Path) -> None:
    manifest = bundle.read_manifest(store / "tags" / "1")
    speeds = (Speed("One", "fp32", 1, 20.5), Speed("Other", "int8", 8, 60.25))
    text = metrics.scrape([(manifest, manifest.variants[0], "Other", speeds)]).decode()
    found = [line for line in text.splitlines() if line.startswith("labrador_variant_images")]
    assert found == [
        'labrador_variant_images_per_second{batch="1",model="tags",precision="fp32",'
        'provider="One"} 20.5',
        'labrador_variant_images_per_second{batch="8",model="tags",precision="int8",'
        'provider="Other"} 60.25',
    ]
    swapped = metrics.scrape([(manifest, manifest.variants[0], "Other", ())]).decode()
    assert "labrador_variant_images_per_second{" not in swapped


def test_the_baseline_is_exported_for_comparison(metrics: Metrics, store: Path) -> None:
    manifest = bundle.read_manifest(store / "tags" / "1")
    text = metrics.scrape([(manifest, manifest.variants[0], "SomeProvider", ())]).decode()
    assert 'labrador_baseline_share{label="red",model="tags"} 0.4' in text
    for le, count in (("0.5", 1), ("1.0", 3), ("+Inf", 3)):
        assert f'labrador_baseline_confidence_bucket{{le="{le}",model="tags"}} {count}.0' in text
    assert 'labrador_baseline_confidence_count{model="tags"} 3.0' in text
    assert 'labrador_baseline_confidence_sum{model="tags"} 1.75' in text


def test_a_model_s_counters_start_at_0(tmp_path: Path, store: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from models import bundle; from serving.observability.metrics import Metrics\n"
        "metrics = Metrics(Path(sys.argv[1]))\n"
        "metrics.expect(bundle.read_manifest(Path(sys.argv[2])))\n"
        "print(metrics.scrape([]).decode())"
    )
    run = [sys.executable, "-c", script, str(tmp_path), str(store / "tags" / "1")]
    text = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert 'labrador_predictions_total{label="red",model="tags"} 0.0' in text
    assert 'labrador_confidence_count{model="tags"} 0.0' in text
    assert 'labrador_reload_total{model="tags",result="failed"} 0.0' in text
    assert 'labrador_stage_seconds_count{model="",stage="read"} 0.0' in text
    assert 'labrador_stage_seconds_count{model="tags",stage="decode"} 0.0' in text
    assert 'labrador_dropped_total{reason="expired"} 0.0' in text


def test_the_top_label_or_every_tag_is_counted(metrics: Metrics, store: Path) -> None:
    def count(model: str, label: str) -> float:
        return float(metrics.predictions.labels(model, label)._value.get())

    scores = np.array([0.6, 0.7, 0.1], np.float32)
    for name, expected in (("colours", [0, 1, 0]), ("tags", [1, 1, 0])):
        manifest = bundle.read_manifest(store / name / "1")
        before = [count(name, label) for label in manifest.labels]
        metrics.observe_scores(scores, manifest)
        after = [count(name, label) for label in manifest.labels]
        assert (np.array(after) - before).tolist() == expected


def test_stages_have_buckets_from_half_a_millisecond(metrics: Metrics) -> None:
    with metrics.stage("decode", Observation(model="colours")):
        pass
    series = 'labrador_stage_seconds_bucket{le="0.0005",model="colours",stage="decode"}'
    assert series in metrics.scrape([]).decode()


def test_a_dead_worker_is_none_whoever_has_its_number_and_whoever_else_tidies(
    metrics: Metrics, metrics_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = 1  # a process of root's, whoever runs this test

    def kill(process: int, signal: int) -> None:
        if process == other:
            raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    own = metrics_folder / f"gauge_livesum_{os.getpid()}.db"
    left = [metrics_folder / f"gauge_{mode}_{other}.db" for mode in ("livesum", "livemin")]
    for file in left:
        shutil.copy(own, file)
    workers = [line for line in metrics.scrape([]).decode().splitlines() if "_workers " in line]
    assert workers[-1] == "labrador_workers 1.0"
    assert own.exists() and not any(file.exists() for file in left)

    def removed_meanwhile(process: int, folder: str) -> None:
        left[0].unlink()
        raise FileNotFoundError(left[0])

    shutil.copy(own, left[0])
    monkeypatch.setattr("prometheus_client.multiprocess.mark_process_dead", removed_meanwhile)
    assert b"labrador_workers 1.0" in metrics.scrape([])
