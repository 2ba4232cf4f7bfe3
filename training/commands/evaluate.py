"""`evaluate`: evaluate a run or a bundle on DATA."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from models import conformal
from models.wording import counted
from training import run_folder
from training.data import datasets
from training.evaluation import evaluate as evaluation
from training.evaluation import promises, scorer
from training.evaluation import strangers as strangers_of
from training.hardware import pick_device
from training.recipe import Device
from training.reports import html_report
from training.reports.unknown import share as interval
from training.run_folder import Run


def evaluate(
    model: Run | Path,
    data: Sequence[str],
    data_options: dict[str, str | None],
    device: Device,
    out: Path | None,
    strangers: Path | None = None,
) -> None:
    """Write metrics.json, predictions.csv and report.html to `out`, and print the metrics.

    strangers: a folder of images of anything else; how many of them are unknown is printed, shown,
    and written to strangers.csv.

    model: a run, or a bundle's folder. data_options: the recipe's, for DATA.
    Of an official split with test images, those are evaluated.
    """
    subject = scorer.load(model, pick_device(device))
    dataset = datasets.read(data, **data_options, task=subject.task)  # type: ignore[arg-type]
    dataset.print_notes()
    if dataset.test:
        dataset = replace(dataset, records=dataset.test)
    seen = strangers_of.see(subject, strangers) if strangers else None
    path = run_folder.create(out)
    found = evaluation.evaluate(subject, dataset)
    measured = found.measure()
    left_out = len(dataset.records) - len(found.records)
    print(
        f"{counted(len(found.records), 'image')}, without {left_out} that it was trained on;"
        f" value and 95 % interval:\n{evaluation.table(measured)}"
    )
    if line := evaluation.against_validation(subject, measured):
        print(line)
    if found.judged is not None:
        own = promises.unknown(found.judged.p_values, conformal.ALPHA)
        print(f"{interval(own)} of them unknown at alpha {conformal.ALPHA:g}")
    evaluation.write(path, found, measured)
    files = [evaluation.METRICS_FILE, evaluation.PREDICTIONS_FILE, run_folder.REPORT_FILE]
    if seen is not None:
        strange = promises.unknown(seen.p_values, conformal.ALPHA)
        print(strangers_of.told(seen, interval(strange), conformal.ALPHA))
        strangers_of.write(path, seen)
        files.append(strangers_of.STRANGERS_FILE)
    report = path / run_folder.REPORT_FILE
    html_report.write(report, subject, found, measured, strangers=seen)
    print(f"wrote {', '.join(str(path / file) for file in files)}")
