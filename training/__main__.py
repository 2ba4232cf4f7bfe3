"""The command line: `python -m training {train,evaluate,export} …`.

Exit codes: 0 done; 1 refused or failed, with one line that says why; 2 wrong usage.
"""

import argparse
import io
import sys
from pathlib import Path

from models.bundle import read_manifest
from models.errors import LabradorError, RecipeError
from models.store import DEFAULT_ROOT, Store
from training import data, evaluate, run
from training.export import export
from training.recipe import Recipe, pick_device, resolve
from training.train import train


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
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


def _train(options: argparse.Namespace) -> None:
    given = {name: getattr(options, name) for name in Recipe.model_fields}
    chosen = {name: value for name, value in given.items() if value is not None}
    path = train(resolve(chosen, options.recipe), options.out)
    print(f"wrote {path}\nnext: python -m training export {path} --name NAME")


def _evaluate(options: argparse.Namespace) -> None:
    model = evaluate.load(options.model, pick_device(options.device))
    dataset = data.read(options.data, options.pattern, options.images, model.task)
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

    training = commands.add_parser("train", help="fine-tune a ResNet on DATA")
    training.set_defaults(command=_train)
    training.add_argument("data", metavar="DATA", help=Recipe.model_fields["data"].description)
    training.add_argument("--recipe", type=Path, help="TOML file with any of the options below")
    training.add_argument("--out", type=Path, metavar="RUN", help="default: runs/<time>")
    for name, field in Recipe.model_fields.items():
        if name != "data":
            text = f"{field.description} (default {field.default})"
            training.add_argument(_flag(name), metavar=name.upper(), help=text.replace("%", "%%"))

    evaluation = commands.add_parser("evaluate", help="measure a run or a bundle on DATA")
    evaluation.set_defaults(command=_evaluate)
    evaluation.add_argument(
        "model", metavar="RUN|BUNDLE", help="a run's or bundle's folder, or NAME[:VERSION]"
    )
    evaluation.add_argument("--data", required=True, help="images and labels, as for train")
    for name in ("pattern", "images"):
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


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # each epoch shows at once, in a log file too
    sys.exit(main())
