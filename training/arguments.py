"""Parses and checks the command line, without importing torch.

Whatever can be rejected without reading an image is rejected here: unknown options, invalid
values, missing paths, folders in use, invalid names.
"""

import argparse
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from models import command_line
from models.errors import RecipeError
from models.store import Store, default_root
from training import run_folder
from training.data import datasets, layouts
from training.recipe import GROUPS, Recipe, resolve
from training.release import MARGIN, check_margin
from training.run_folder import Run

INSPECTED = (  # the recipe options that inspect uses
    *(*datasets.OPTIONS, "task", "valid", "seed"),
    *("arch", "image_size", "crop_fraction", "flip", "rotation", "scale", "warp", "light"),
    *("weights", "device"),
)
_OF_LABELS = ("weights", "device")  # those that it uses with --labels only
_FILES = ("images", "relabel", "quarantine", "correct")  # options whose path must exist


@dataclass(frozen=True)
class Call:
    """`function(**arguments)` of the module `training.commands.<module>`."""

    module: str
    function: str
    arguments: dict[str, Any]


def parse(arguments: list[str] | None, prog: str) -> Call:
    """The call for these command-line arguments. Exits with 2 on wrong usage, with 0 after help.

    prog: how the program was called. Raises RecipeError, DataError, RunError, BundleError or
    ReleaseError for what cannot be used.
    """
    options = command_line.parse(parser(prog), arguments)
    call: Call = options.check(options)
    return call


def _inspect(options: argparse.Namespace) -> Call:
    recipe = _recipe(options, ("data", *INSPECTED))
    run_folder.check_free(options.out)
    if not options.labels and (given := [n for n in _OF_LABELS if getattr(options, n) is not None]):
        raise RecipeError(f"{_flag(given[0])} is used by inspect with --labels only")
    return Call("inspect", "inspect", {"recipe": recipe, **_select(options, "out", "labels")})


def _train(options: argparse.Namespace) -> Call:
    if options.resume:
        _refuse_others(options, "--resume", {"out"})
        run_folder.read_start(options.resume)
        return Call("train", "resume", {"path": options.resume})
    recipe = _recipe(options, Recipe.model_fields)
    run_folder.check_free(options.out)
    return Call("train", "train", {"recipe": recipe, "out": options.out})


def _lr_find(options: argparse.Namespace) -> Call:
    if options.from_run:
        _refuse_others(options, "--from", set())
        source: Run | Recipe = run_folder.read(options.from_run)
    else:
        source = _recipe(options, Recipe.model_fields)
    run_folder.check_free(options.out)
    return Call("lr_find", "lr_find", {"source": source, "out": options.out})


def _evaluate(options: argparse.Namespace) -> Call:
    given = {name: getattr(options, name) for name in datasets.OPTIONS}
    _check_data(options.data, given)
    run_folder.check_free(options.out)
    if options.strangers is not None and not options.strangers.is_dir():
        raise RecipeError(f"--strangers {options.strangers} is not a folder")
    arguments = {"model": _model(options.model), "data": options.data, "data_options": given}
    more = _select(options, "device", "out", "strangers")
    return Call("evaluate", "evaluate", {**arguments, **more})


def _model(text: str) -> Run | Path:
    """The run in a folder, or the folder of a bundle, which may be given by its name."""
    path = Path(text)
    if (path / run_folder.RUN_FILE).exists():
        return run_folder.read(path)
    return path if path.is_dir() else Store(default_root()).path(text)


def _export(options: argparse.Namespace) -> Call:
    return Call("export", "export", _export_arguments(options))


def _release(options: argparse.Namespace) -> Call:
    check_margin(options.margin)
    more = _select(options, "margin", "force", "device")
    arguments = {**_export_arguments(options), "allowed": options.allow_label, **more}
    return Call("release", "release", arguments)


def _rollback(options: argparse.Namespace) -> Call:
    arguments = {"store": Store(options.store), **_select(options, "name", "to")}
    return Call("rollback", "rollback", arguments)


def _export_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The checked arguments that export and release share."""
    finished, store = run_folder.read(options.run), Store(options.store)
    store.versions(options.name)
    _check_data(options.data or finished.recipe.data, {})
    more = {"data_path": options.data, "precisions": options.precision}
    return {"run": finished, "name": options.name, "store": store, **more}


def _recipe(options: argparse.Namespace, names: Iterable[str]) -> Recipe:
    given = {name: getattr(options, name) for name in names}
    chosen = {name: value for name, value in given.items() if value is not None}
    recipe = resolve(chosen, options.recipe)
    _check_data(recipe.data, {name: getattr(recipe, name) for name in datasets.OPTIONS})
    if recipe.weights not in ("imagenet", "none") and not Path(recipe.weights).is_file():
        raise RecipeError(
            f"--weights {recipe.weights} is neither imagenet, none nor an existing file"
        )
    return recipe


def _check_data(data: str, options: dict[str, str | None]) -> None:
    layouts.check_there(data)
    for name in _FILES:
        file = options.get(name)
        if file is not None and not Path(file).exists():
            raise RecipeError(f"{_flag(name)} {file} does not exist")


def _refuse_others(options: argparse.Namespace, flag: str, more: set[str]) -> None:
    """RecipeError for recipe options next to a run, whose own recipe is used."""
    others = {*Recipe.model_fields, "recipe", *more}
    if given := [name for name in sorted(others) if getattr(options, name) is not None]:
        raise RecipeError(f"{flag} RUN uses the run's own recipe: leave out {', '.join(given)}")


def _select(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


def parser(prog: str = "python -m training") -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog=prog,
        description="From a folder of images to a fine-tuned ResNet, exported and released.",
        epilog="Exit codes: 0 done; 1 refused or failed, with one line saying why; 2 wrong usage.",
    )
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, check: Callable[[argparse.Namespace], Call], help: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(check=check, parser=added)
        return added

    inspecting = command("inspect", _inspect, "audit DATA before training")
    _add_data(inspecting)
    inspecting.add_argument(
        "--labels",
        action="store_true",
        help="also find labels that are probably wrong, by features of the pretrained network",
    )
    _add_fields(inspecting, INSPECTED)

    training = command("train", _train, "fine-tune a ResNet on DATA")
    _add_data(training, optional=True)
    training.add_argument(
        "--resume", type=Path, metavar="RUN", help="resume a run that was stopped"
    )
    _add_fields(training, [name for name in Recipe.model_fields if name != "data"])

    finding = command("lr-find", _lr_find, "find a learning rate: suggestions and a plot")
    _add_data(finding, optional=True)
    finding.add_argument(
        "--from",
        dest="from_run",
        type=Path,
        metavar="RUN",
        help="sweep the whole network of a run instead of a new head on DATA",
    )
    _add_fields(finding, [name for name in Recipe.model_fields if name != "data"])

    evaluating = command("evaluate", _evaluate, "evaluate a run or a bundle on DATA")
    evaluating.add_argument(
        "model", metavar="RUN|BUNDLE", help="a run's or bundle's folder, or NAME[:VERSION]"
    )
    evaluating.add_argument("--data", required=True, help="images and labels, as for train")
    evaluating.add_argument(
        "--strangers",
        type=Path,
        metavar="FOLDER",
        help="images of anything else: how many of them it calls unknown",
    )
    _add_fields(evaluating, (*datasets.OPTIONS, "device"))
    evaluating.set_defaults(device="auto")
    evaluating.add_argument("--out", type=Path, help="default: runs/<time>")

    exporting = command("export", _export, "export a run to a bundle, through the gate")
    _add_export(exporting)

    releasing = command(
        "release",
        _release,
        "export a run and serve it by default, unless it is worse than the released version",
    )
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
        help="a label that may get worse or be removed; may be repeated; kept in the manifest",
    )
    releasing.add_argument(
        "--force", action="store_true", help="release whatever the verdict; kept in the manifest"
    )
    _add_fields(releasing, ["device"])
    releasing.set_defaults(device="auto")

    returning = command("rollback", _rollback, "serve an earlier version by default again")
    command_line.add_rollback(returning)
    return whole


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument(
        "--name", required=True, help="the model's name; its next version is written"
    )
    parser.add_argument("--data", help="where the run's images are now, if they were moved")
    parser.add_argument(
        "--precision",
        action="append",
        choices=["fp32", "fp16", "int8"],
        help="a form of the network to make beside fp32, which is always made; it must pass its"
        " gate; may be repeated; default: fp16 and int8, each only if it passes",
    )
    command_line.add_store(parser)


def _add_data(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    text = Recipe.model_fields["data"].description
    parser.add_argument("data", metavar="DATA", nargs="?" if optional else None, help=text)
    parser.add_argument("--recipe", type=Path, help="TOML file with any of train's options")
    parser.add_argument("--out", type=Path, metavar="RUN", help="default: runs/<time>")


def _add_fields(parser: argparse.ArgumentParser, names: Collection[str]) -> None:
    """Recipe fields as options, under the headings of their groups."""
    for heading, members in GROUPS.items():
        fields = [name for name in members if name in names]
        group = parser.add_argument_group(heading) if fields else parser
        for name in fields:
            field = Recipe.model_fields[name]
            default = "" if field.default is None else f"; default: {field.default}"
            text = f"{field.description}{default}"
            group.add_argument(
                _flag(name), metavar=_kind(field.annotation), help=text.replace("%", "%%")
            )


def _kind(annotation: Any) -> str:
    """How help shows the values of a field: its choices or its type."""
    if get_origin(annotation) is Literal:
        return f"{{{','.join(get_args(annotation))}}}"
    if types := [part for part in get_args(annotation) if part is not NoneType]:
        return _kind(types[0])
    return {int: "INT", float: "FLOAT"}.get(annotation, "TEXT")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
