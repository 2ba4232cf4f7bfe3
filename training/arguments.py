"""Parses and checks the command line, without importing torch.

Whatever can be rejected without reading an image is rejected here: unknown options, invalid
values, missing paths, folders in use, invalid names.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models import command_line
from models.errors import RecipeError
from models.signing.signature import Signer
from training import run_folder
from training.data import datasets, layouts
from training.options import INSPECTED, flag, parser
from training.recipe import Recipe, resolve
from training.release import check_margin
from training.run_folder import Run
from training.tracking import choice
from training.tracking.choice import Choice

_OF_LABELS = ("weights", "device")  # those that it uses with --labels only
_FILES = ("images", "relabel", "quarantine", "correct")  # options whose path must exist


@dataclass(frozen=True)
class Call:
    """`function(**arguments)` of the module `training.commands.<module>`.

    quiet: without bars and notes.
    """

    module: str
    function: str
    arguments: dict[str, Any]
    quiet: bool = False


def parse(arguments: list[str] | None, prog: str) -> Call:
    """The call for these command-line arguments. Exits with 2 on wrong usage, with 0 after help.

    prog: how the program was called. Raises RecipeError, DataError, RunError, BundleError or
    ReleaseError for what cannot be used.
    """
    options = command_line.parse(parser(prog), arguments)
    return replace(_CHECKS[options.command](options), quiet=options.quiet)


def _inspect(options: argparse.Namespace) -> Call:
    recipe = _recipe(options, ("data", *INSPECTED))
    run_folder.check_free(options.out)
    if not options.labels and (given := [n for n in _OF_LABELS if getattr(options, n) is not None]):
        raise RecipeError(f"{flag(given[0])} is used by inspect with --labels only")
    return Call("inspect", "inspect", {"recipe": recipe, **_select(options, "out", "labels")})


def _train(options: argparse.Namespace) -> Call:
    if options.resume:
        _refuse_others(options, "--resume", {"out", "tensorboard", "mlflow"})
        run_folder.read_start(options.resume)
        choice.check(choice.read(options.resume))
        return Call("train", "resume", {"path": options.resume})
    recipe = _recipe(options, Recipe.model_fields)
    if recipe.new_labels and not recipe.correct:
        raise RecipeError("--new-labels is used by train with --correct only")
    run_folder.check_free(options.out)
    tracking = Choice(tensorboard=bool(options.tensorboard), mlflow=options.mlflow)
    choice.check(tracking)
    arguments = {"recipe": recipe, "out": options.out, "tracking": tracking}
    return Call("train", "train", arguments)


def _lr_find(options: argparse.Namespace) -> Call:
    if options.from_run:
        _refuse_others(options, "--from", set())
        source: Run | Recipe = run_folder.read(options.from_run)
    else:
        source = _recipe(options, Recipe.model_fields)
    run_folder.check_free(options.out)
    return Call("lr_find", "lr_find", {"source": source, "out": options.out})


def _evaluate(options: argparse.Namespace) -> Call:
    given = _recipe_options(options, *datasets.OPTIONS)
    _check_data(options.data, given)
    run_folder.check_free(options.out)
    if options.strangers is not None and not options.strangers.is_dir():
        raise RecipeError(f"--strangers {options.strangers} is not a folder")
    arguments = {"model": _model(options.model), "data": options.data, "data_options": given}
    more = {**_recipe_options(options, "device"), **_select(options, "out", "strangers")}
    return Call("evaluate", "evaluate", {**arguments, **more})


def _model(text: str) -> Run | Path:
    """The run in a folder, or the folder of a bundle, which may be given by its name."""
    path = Path(text)
    if (path / run_folder.RUN_FILE).exists():
        return run_folder.read(path)
    return path if path.is_dir() else command_line.store_of(None).path(text)


def _compare(options: argparse.Namespace) -> Call:
    if len(options.runs) < 2:
        raise RecipeError("compare needs two runs or more: compare RUN RUN")
    if len({path.resolve() for path in options.runs}) < len(options.runs):
        raise RecipeError(f"compare was given a run twice: {' '.join(map(str, options.runs))}")
    runs = [run_folder.read(path) for path in options.runs]
    _check_data(options.data or (), {})
    run_folder.check_free(options.out)
    more = {**_recipe_options(options, "device"), **_select(options, "data", "out")}
    return Call("compare", "compare", {"runs": runs, **more})


def _export(options: argparse.Namespace) -> Call:
    return Call("export", "export", _export_arguments(options))


def _release(options: argparse.Namespace) -> Call:
    check_margin(options.margin)
    more = {**_recipe_options(options, "device"), **_select(options, "margin", "force")}
    arguments = {**_export_arguments(options), "allowed": options.allow_label, **more}
    return Call("release", "release", arguments)


def _rollback(options: argparse.Namespace) -> Call:
    arguments = {"store": command_line.store_of(options.store), **_select(options, "name", "to")}
    return Call("rollback", "rollback", arguments)


def _export_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The checked arguments that export and release share."""
    finished, store = run_folder.read(options.run), command_line.store_of(options.store)
    store.versions(options.name)
    _check_data(options.data or (), {})
    signer = None if options.sign is None else Signer(options.sign)
    more = {"data_path": options.data, "precisions": options.precision, "signer": signer}
    return {"run": finished, "name": options.name, "store": store, **more}


def _recipe(options: argparse.Namespace, names: Iterable[str]) -> Recipe:
    given = {name: getattr(options, name) for name in names}
    chosen = {name: value for name, value in given.items() if value not in (None, [])}
    recipe = resolve(chosen, options.recipe)
    _check_data(recipe.sources, {name: getattr(recipe, name) for name in datasets.OPTIONS})
    if recipe.weights not in ("imagenet", "none") and not Path(recipe.weights).is_file():
        raise RecipeError(
            f"--weights {recipe.weights} is neither imagenet, none nor an existing file"
        )
    if recipe.cache == "gpu" and recipe.device == "cpu":
        raise RecipeError("--cache gpu with --device cpu: use auto, memory or none")
    return recipe


def _recipe_options(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Options of a recipe, of a command that has none of its own. RecipeError for invalid ones."""
    given = _select(options, *names)
    resolve({"data": "", **{name: value for name, value in given.items() if value is not None}})
    return given


def _check_data(data: Sequence[str], options: dict[str, str | None]) -> None:
    for given in data:
        layouts.check_there(given)
    for name in _FILES:
        file = options.get(name)
        if file is not None and not Path(file).exists():
            raise RecipeError(f"{flag(name)} {file} does not exist")


def _refuse_others(options: argparse.Namespace, flag: str, more: set[str]) -> None:
    """RecipeError for recipe options next to a run, whose own recipe is used."""
    others = {*Recipe.model_fields, "recipe", *more}
    if given := [name for name in sorted(others) if getattr(options, name) not in (None, [])]:
        raise RecipeError(f"{flag} RUN uses the run's own recipe: leave out {', '.join(given)}")


def _select(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


_CHECKS: Mapping[str, Callable[[argparse.Namespace], Call]] = {
    "inspect": _inspect,
    "lr-find": _lr_find,
    "train": _train,
    "evaluate": _evaluate,
    "compare": _compare,
    "export": _export,
    "release": _release,
    "rollback": _rollback,
}
