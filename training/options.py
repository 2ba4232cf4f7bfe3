"""The commands of `python -m training` and their options."""

import argparse
from collections.abc import Collection
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from models import command_line
from training.data import datasets
from training.recipe import GROUPS, Recipe
from training.release import MARGIN

INSPECTED = (  # the recipe options that inspect uses
    *(*datasets.OPTIONS, "task", "valid", "seed"),
    *("arch", "image_size", "crop_fraction", "flip", "rotation", "scale", "warp", "light"),
    *("weights", "device"),
)


def parser(prog: str = "python -m training") -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog=prog,
        description="From a folder of images to a fine-tuned ResNet, exported and released.",
        epilog="Exit codes: 0 done; 1 refused or failed, with one line saying why; 2 wrong usage.",
    )
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(command=name, parser=added)
        added.add_argument(
            "-q", "--quiet", action="store_true", help="print only the result and errors"
        )
        return added

    inspecting = command("inspect", "audit DATA before training")
    _add_data(inspecting)
    inspecting.add_argument(
        "--labels",
        action="store_true",
        help="also find labels that are probably wrong, by features of the pretrained network",
    )
    _add_fields(inspecting, INSPECTED)

    training = command("train", "fine-tune a ResNet on DATA")
    _add_data(training, optional=True)
    training.add_argument(
        "--resume", type=Path, metavar="RUN", help="resume a run that was stopped"
    )
    training.add_argument(
        "--tensorboard",
        action="store_true",
        default=None,
        help="log to RUN/tensorboard; needs the extra `tensorboard`",
    )
    training.add_argument(
        "--mlflow",
        metavar="URI",
        help="log to this MLflow server, and register bundles there when they are exported; needs"
        " the extra `mlflow`",
    )
    _add_fields(training, [name for name in Recipe.model_fields if name != "data"])

    finding = command("lr-find", "find a learning rate: suggestions and a plot")
    _add_data(finding, optional=True)
    finding.add_argument(
        "--from",
        dest="from_run",
        type=Path,
        metavar="RUN",
        help="sweep the whole network of a run instead of a new head on DATA",
    )
    _add_fields(finding, [name for name in Recipe.model_fields if name != "data"])

    evaluating = command("evaluate", "evaluate a run or a bundle on DATA")
    evaluating.add_argument(
        "model", metavar="RUN|BUNDLE", help="a run's or bundle's folder, or NAME[:VERSION]"
    )
    evaluating.add_argument(
        "--data",
        required=True,
        action="append",
        help="images and labels, as for train; may be repeated",
    )
    evaluating.add_argument(
        "--strangers",
        type=Path,
        metavar="FOLDER",
        help="images of anything else: how many of them it calls unknown",
    )
    _add_fields(evaluating, (*datasets.OPTIONS, "device"))
    evaluating.set_defaults(device="auto")
    evaluating.add_argument("--out", type=Path, help="default: runs/<time>")

    comparing = command("compare", "compare finished runs: is one better than the first?")
    comparing.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    comparing.add_argument(
        "--data",
        action="append",
        help="where the first run's images are now, if they were moved; once for each of its DATA",
    )
    _add_fields(comparing, ["device"])
    comparing.set_defaults(device="auto")
    comparing.add_argument("--out", type=Path, help="default: runs/<time>")

    exporting = command("export", "export a run to a bundle, through the gate")
    _add_export(exporting)

    releasing = command(
        "release",
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

    returning = command("rollback", "serve an earlier version by default again")
    command_line.add_rollback(returning)
    return whole


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument(
        "--name", required=True, help="the model's name; its next version is written"
    )
    parser.add_argument(
        "--data",
        action="append",
        help="where the run's images are now, if they were moved; once for each of its DATA",
    )
    parser.add_argument(
        "--precision",
        action="append",
        choices=["fp32", "fp16", "int8"],
        help="a form of the network to make beside fp32, which is always made; it must pass its"
        " gate; may be repeated; default: fp16 and int8, each only if it passes",
    )
    parser.add_argument(
        "--sign",
        type=Path,
        metavar="KEY",
        help="PEM file with an elliptic-curve private key: sign the bundle, as OpenSSF's model"
        " signing does; needs the extra `signing`",
    )
    command_line.add_store(parser)


def _add_data(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    text = Recipe.model_fields["data"].description
    parser.add_argument("data", metavar="DATA", nargs="*" if optional else "+", help=text)
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
                flag(name), metavar=_kind(field.annotation), help=text.replace("%", "%%")
            )


def _kind(annotation: Any) -> str:
    """How help shows the values of a field: its choices or its type."""
    if get_origin(annotation) is Literal:
        return f"{{{','.join(get_args(annotation))}}}"
    if types := [part for part in get_args(annotation) if part is not NoneType]:
        return _kind(types[0])
    return {int: "INT", float: "FLOAT"}.get(annotation, "TEXT")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")
