"""The command line: `python -m training {inspect,lr-find,train,evaluate,export} …`.

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
from training import data, evaluate, lr_find, ranks, run
from training.export import export
from training.inspect import OPTIONS, inspect
from training.recipe import Recipe, pick_device, resolve
from training.train import resume, train

_DATA_OPTIONS = ("pattern", "images", "relabel", "quarantine")  # of evaluate


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        with ranks.only_the_first_speaks():
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
    print(f"wrote {path}\nnext: python -m training export {path} --name NAME")


def _lr_find(options: argparse.Namespace) -> None:
    if options.from_run:
        _refuse_others(options, "from_run")
    print(lr_find.find(options.from_run or _recipe(options), options.out))


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
    model = evaluate.load(options.model, pick_device(options.device))
    given = {name: getattr(options, name) for name in _DATA_OPTIONS}
    dataset = data.read(options.data, **given, task=model.task)
    for note in dataset.notes:
        print(note)
    path = run.create(options.out)
    print(evaluate.evaluate(model, dataset, path))
    print(f"wrote {path / evaluate.METRICS_FILE} and {path / evaluate.PREDICTIONS_FILE}")


def _export(options: argparse.Namespace) -> None:
    store = Store(options.store)
    path = export(run.read(options.run), options.name, store, options.data)
    gate = read_manifest(path).variants[0].gate
    print(
        f"gate passed: scores differ by {gate.max_difference:.1e} at most (tolerance"
        f" {gate.tolerance:.0e}), {gate.flips} decisions differ"
    )
    print(f"wrote {path}; version {store.released(options.name)} of {options.name} is released")
    print("next: bentoml serve")


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
    exporting.add_argument("run", metavar="RUN", type=Path)
    exporting.add_argument("--name", required=True, help="of the model; its next version is made")
    exporting.add_argument("--data", help="where the run's images are now, if not where they were")
    exporting.add_argument("--store", type=Path, default=DEFAULT_ROOT, help="default: %(default)s")
    return parser


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
