"""The command line: `python -m serving COMMAND …`. The service itself: `bentoml serve`.

Exit codes: 0 done; 1 refused or failed, with one line that says why; 2 wrong usage.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from models.errors import LabradorError
from models.wording import counted
from serving.settings import read_api_keys, read_settings

_BAD_SHOWN = 5


def main(arguments: list[str] | None = None, prog: str = "python -m serving") -> int:
    options = parser(prog).parse_args(arguments)
    try:
        return int(options.command(options))
    except (LabradorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        resumes = "; run the same command again to resume" if options.command is _predict else ""
        print(f"interrupted{resumes}", file=sys.stderr)
        return 130


def _predict(options: argparse.Namespace) -> int:
    settings = read_settings()
    if options.ray is None:
        from serving.predict import predict  # imported late, so that help takes no time

        images, out = list(map(Path, options.images)), Path(options.out or "predictions.csv")
        bad = predict(options.model, images, out, settings, options.quiet)
        print(f"wrote {out}")
    else:
        from serving.cluster import places
        from serving.cluster.predict import predict as on_cluster

        sources = [places.source(text) for text in options.images]
        place = places.source(options.out or "predictions")
        bad = on_cluster(options.model, sources, place, settings, options.ray, options.quiet)
        print(f"wrote {place}")
    if bad:
        shown = "; ".join(bad[:_BAD_SHOWN])
        print(f"error: {counted(len(bad), 'file')} without a prediction: {shown}", file=sys.stderr)
    return 1 if bad else 0


def _bench(options: argparse.Namespace) -> int:
    from serving import bench, predict

    key = next(iter(read_api_keys(options.api_keys_file)), None)
    plan = bench.Plan(
        options.url.rstrip("/"),
        options.model,
        tuple(options.clients or () if options.rate else options.clients or (1, 8)),
        tuple(options.rate or ()),
        options.seconds,
        key.decode() if key else None,
    )
    print(asyncio.run(bench.measure(plan, predict.find(options.images))))
    return 0


def parser(prog: str = "python -m serving") -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog=prog, description=__doc__)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    predicting = commands.add_parser(
        "predict", help="write a model's predictions for many images to a table, without a server"
    )
    predicting.set_defaults(command=_predict)
    predicting.add_argument("model", metavar="NAME", help="NAME or NAME:VERSION in the store")
    predicting.add_argument(
        "images",
        metavar="IMAGES",
        nargs="+",
        help="images and folders of them; with --ray also s3://BUCKET/PREFIX or gs://BUCKET/PREFIX,"
        " and Parquet files with images inside",
    )
    predicting.add_argument(
        "--out",
        help="CSV, or with --ray a folder or URL for Parquet files; default: predictions.csv, with"
        " --ray predictions",
    )
    predicting.add_argument(
        "--ray",
        metavar="ADDRESS",
        nargs="?",
        const="",
        help="by the machines of the Ray cluster whose head is at HOST:PORT; default: the one in"
        " $RAY_ADDRESS, or of this machine, or one that is started here. A session has"
        " $LABRADOR_CORES cores, or up to 4. Needs the extra `ray`",
    )
    predicting.add_argument(
        "-q", "--quiet", action="store_true", help="print only the result and errors"
    )

    testing = commands.add_parser("bench", help="load-test a running service")
    testing.set_defaults(command=_bench)
    testing.add_argument("url", metavar="URL", help="for example http://localhost:3000")
    testing.add_argument("images", metavar="IMAGES", nargs="+", type=Path)
    testing.add_argument("--model", help="NAME; required if several models are served")
    testing.add_argument(
        "--clients",
        type=_positive,
        action="append",
        help="closed loop: number of clients, each with one request at a time; may be repeated;"
        " default: 1 and 8, unless --rate is given",
    )
    testing.add_argument(
        "--rate",
        type=_positive_float,
        action="append",
        help="open loop: requests per second, sent whether or not earlier ones are answered; may"
        " be repeated",
    )
    testing.add_argument(
        "--seconds", type=_positive_float, default=10, help="duration of each load; default: 10"
    )
    testing.add_argument(
        "--api-keys-file",
        type=Path,
        help="file with one API key per line, of which the first is sent",
    )
    return whole


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: use 1 or more")
    return number


def _positive_float(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: use a number above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
