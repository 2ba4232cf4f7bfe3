"""The command line: `python -m training COMMAND …`.

Exit codes: 0 done; 1 refused or failed, with one line that says why; 2 wrong usage.
"""

import argparse
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from models.bundle import read_manifest
from models.errors import LabradorError, RecipeError
from models.store import DEFAULT_ROOT, Store
from training import distributed, run_folder
from training.commands.train import resume, train
from training.data import datasets
from training.evaluation import evaluate, scorer
from training.export.export import export
from training.fine_tuning import lr_finder
from training.inspection.inspect import OPTIONS, inspect
from training.recipe import Recipe, pick_device, resolve
from training.release.release import MARGIN, release, rollback
from training.reports import html_report

_DATA_OPTIONS = ("pattern", "images", "relabel", "quarantine")  # of evaluate


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        with distributed.only_the_first_speaks():
            options.command(options)
    except RecipeError as error:
        parser.error(str(error))
    except (LabradorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _inspect(options: argparse.Namespace) -> None:
    inspect(_recipe(options, ("data", *OPTIONS)), options.out)


def _train(options: argparse.Namespace) -> None:
    if options.resume:
        _refuse_others(options, "resume")
        path = resume(options.resume)
    else:
        path = train(_recipe(options), options.out)
    print(f"wrote {path}; to read: {path / run_folder.REPORT_FILE}")
    print(f"next: python -m training export {path} --name NAME")


def _lr_find(options: argparse.Namespace) -> None:
    if options.from_run:
        _refuse_others(options, "from_run")
    print(lr_finder.find(options.from_run or _recipe(options), options.out))


def _recipe(options: argparse.Namespace, names: Iterable[str] = Recipe.model_fields) -> Recipe:
    given = {name: getattr(options, name) for name in names}
    chosen = {name: value for name, value in given.items() if value is not None}
    return resolve(chosen, options.recipe)


def _refuse_others(options: argparse.Namespace, name: str) -> None:
    """A run has its own recipe: options beside it would be ignored."""
    others = {*Recipe.model_fields, "recipe", *(("out",) if name == "resume" else ())}
    if given := [other for other in sorted(others) if getattr(options, other) is not None]:
        flag = "--from" if name == "from_run" else "--resume"
        raise RecipeError(f"{flag} RUN takes the run's own recipe: leave out {', '.join(given)}")


def _evaluate(options: argparse.Namespace) -> None:
    subject = scorer.load(options.model, pick_device(options.device))
    given = {name: getattr(options, name) for name in _DATA_OPTIONS}
    dataset = datasets.read(options.data, **given, task=subject.task)
    for note in dataset.notes:
        print(note)
    path = run_folder.create(options.out)
    evaluation = evaluate.evaluate(subject, dataset)
    measured = evaluation.measure()
    left_out = len(dataset.examples) - len(evaluation.items)
    print(
        f"{len(evaluation.items)} images, {left_out} left out that it was trained on;"
        f" value and 95 % interval:\n{evaluate.table(measured)}"
    )
    evaluate.write(path, evaluation, measured)
    html_report.write(path / run_folder.REPORT_FILE, subject, evaluation, measured)
    files = (evaluate.METRICS_FILE, evaluate.PREDICTIONS_FILE, run_folder.REPORT_FILE)
    print(f"wrote {', '.join(str(path / file) for file in files)}")


def _export(options: argparse.Namespace) -> None:
    store = Store(options.store)
    path = export(
        run_folder.read(options.run),
        options.name,
        store,
        options.data,
        precisions=options.precision,
    )
    _tell_bundle(path, store)
    if store.released(options.name) == int(path.name):
        print("next: bentoml serve")
    else:
        print(f"next: bentoml serve with LABRADOR_MODELS={options.name}:{path.name}, or release")


def _release(options: argparse.Namespace) -> None:
    store = Store(options.store)
    path = release(
        run_folder.read(options.run),
        options.name,
        store,
        pick_device(options.device),
        margin=options.margin,
        allowed=options.allow_label,
        force=options.force,
        precisions=options.precision,
        data_path=options.data,
    )
    _tell_bundle(path, store)
    print("next: bentoml build")


def _rollback(options: argparse.Namespace) -> None:
    before, now = rollback(options.name, Store(options.store), options.to)
    print(f"version {now} of {options.name} is released; before, {before} was")


def _tell_bundle(path: Path, store: Store) -> None:
    manifest = read_manifest(path)
    for variant in manifest.variants:
        gate = variant.gate
        print(
            f"gate of {variant.precision} passed: scores differ by {gate.max_difference:.1e} at"
            f" most (tolerance {gate.tolerance:.0e}), {gate.flips} decisions differ"
        )
    name = manifest.name
    print(f"wrote {path}; version {store.released(name)} of {name} is released")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    inspection = commands.add_parser("inspect", help="look at DATA before training: an audit")
    inspection.set_defaults(command=_inspect)
    _add_data(inspection)
    _add_fields(inspection, OPTIONS)

    training = commands.add_parser("train", help="fine-tune a ResNet on DATA")
    training.set_defaults(command=_train)
    _add_data(training, optional=True)
    training.add_argument("--resume", type=Path, metavar="RUN", help="go on with a stopped run")
    _add_fields(training, [name for name in Recipe.model_fields if name != "data"])

    finding = commands.add_parser("lr-find", help="find a learning rate: a plot, suggestions")
    finding.set_defaults(command=_lr_find)
    _add_data(finding, optional=True)
    finding.add_argument(
        "--from",
        dest="from_run",
        type=Path,
        metavar="RUN",
        help="look at the whole network of a run, instead of a new head on DATA",
    )
    _add_fields(finding, [name for name in Recipe.model_fields if name != "data"])

    evaluation = commands.add_parser("evaluate", help="measure a run or a bundle on DATA")
    evaluation.set_defaults(command=_evaluate)
    evaluation.add_argument(
        "model", metavar="RUN|BUNDLE", help="a run's or bundle's folder, or NAME[:VERSION]"
    )
    evaluation.add_argument("--data", required=True, help="images and labels, as for train")
    for name in _DATA_OPTIONS:
        evaluation.add_argument(_flag(name), help=Recipe.model_fields[name].description)
    evaluation.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])
    evaluation.add_argument("--out", type=Path, help="default: runs/<time>")

    exporting = commands.add_parser("export", help="turn a run into a bundle, through the gate")
    exporting.set_defaults(command=_export)
    _add_export(exporting)

    releasing = commands.add_parser(
        "release",
        help="export a run and serve it by default, if it is not worse than what is released",
    )
    releasing.set_defaults(command=_release)
    _add_export(releasing)
    releasing.add_argument(
        "--margin",
        type=float,
        default=MARGIN,
        help="share by which error or 1 - mAP may be worse, with 95 %% confidence; default:"
        " %(default)s",
    )
    releasing.add_argument(
        "--allow-label",
        action="append",
        default=[],
        metavar="LABEL",
        help="that may get worse, or go; may be repeated; kept in the manifest",
    )
    releasing.add_argument(
        "--force", action="store_true", help="release whatever the verdict; kept in the manifest"
    )
    releasing.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])

    returning = commands.add_parser("rollback", help="serve an earlier version by default again")
    returning.set_defaults(command=_rollback)
    returning.add_argument("name", metavar="NAME")
    returning.add_argument(
        "--to", type=int, metavar="VERSION", help="default: the one that the released one replaced"
    )
    returning.add_argument("--store", type=Path, default=DEFAULT_ROOT, help="default: %(default)s")
    return parser


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("--name", required=True, help="of the model; its next version is made")
    parser.add_argument("--data", help="where the run's images are now, if not where they were")
    parser.add_argument(
        "--precision",
        action="append",
        default=[],
        choices=["fp16", "int8"],
        help="a variant beside fp32, behind a gate of its own; may be repeated",
    )
    parser.add_argument("--store", type=Path, default=DEFAULT_ROOT, help="default: %(default)s")


def _add_data(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    text = Recipe.model_fields["data"].description
    parser.add_argument("data", metavar="DATA", nargs="?" if optional else None, help=text)
    parser.add_argument("--recipe", type=Path, help="TOML file with any of train's options")
    parser.add_argument("--out", type=Path, metavar="RUN", help="default: runs/<time>")


def _add_fields(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    for name in names:
        field = Recipe.model_fields[name]
        text = f"{field.description} (default {field.default})"
        parser.add_argument(_flag(name), metavar=name.upper(), help=text.replace("%", "%%"))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # each epoch shows at once, in a log file too
    sys.exit(main())
