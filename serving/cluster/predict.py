"""A model's predictions for many images as Parquet, by the machines of a Ray cluster.

The rows are those of `serving/predict.py`, by the same lines (`serving/scoring.py`), and a run that
was interrupted resumes likewise. The driver reads and checks the bundle and hands it over, so the
machines need neither the store nor its credentials; it alone writes. A machine that is lost costs
only the time for the pieces that it had.
"""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from models.errors import LabradorError
from serving.cluster import places
from serving.cluster.actor import Actor, Job, chosen
from serving.cluster.connection import ClusterError, check_installed, connected, one_line
from serving.cluster.pieces import Piece, is_table, pieces, row_groups
from serving.cluster.places import Source
from serving.cluster.workers import Workers, sized
from serving.settings import Settings


def predict(
    reference: str,
    sources: Sequence[Source],
    out: Source,
    settings: Settings,
    address: str,
    quiet: bool = False,
) -> list[str]:
    """Add the missing rows to the folder `out`. Returns its errors, each with its image's path.

    address: as for `connected`. quiet: without a bar. Raises what `serving.predict.predict` raises,
    and ClusterError.
    """
    check_installed()
    from serving.cluster.parts import Parts  # needs pyarrow, which comes with Ray Data

    folder = Path.cwd()
    files = places.files(sources)
    bundle = settings.store().read(reference)
    parts = Parts(out, bundle.manifest)
    groups = row_groups(files, folder)
    images = [file for file in files if not is_table(file)]
    asked = {file.path for file in images}.union(*(group.paths() for group in groups))
    missing = asked - parts.errors.keys()
    with tqdm(
        total=len(asked),
        initial=len(asked) - len(missing),
        unit=" images",
        disable=True if quiet else None,  # None: but in a terminal
    ) as bar:
        if missing:
            with connected(address) as ray, _named(ray):
                from serving.cluster.keeper import kept

                alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
                workers = sized(alive, settings)
                found = pieces(images, groups, missing, workers.count)
                local = [one for one in sources if isinstance(one, Path)]
                own = settings.model_copy(update={"cores": workers.cores, "device": workers.device})
                job = Job(kept(bundle), own, folder, local)
                try:
                    for table in _scored(ray, job, found, workers):
                        parts.add(table)
                        bar.update(table.num_rows)
                finally:
                    parts.write()  # also what an interrupted run has
    if lost := missing - parts.errors.keys():
        raise ClusterError(f"{len(lost)} images have no row: run the same command again")
    return [f"{path}: {error}" for path, error in parts.errors.items() if error and path in asked]


def _scored(ray: Any, job: Job, found: Sequence[Piece], workers: Workers) -> Iterator[Any]:
    """The tables of all pieces, in any order."""
    one = ray.remote(chosen).options(**workers.resources())
    precision = ray.get(one.remote(job))
    job = replace(job, settings=job.settings.model_copy(update={"precision": precision}))
    rows = [{"piece": pickle.dumps(piece), "number": n} for n, piece in enumerate(found)]
    actors = ray.data.ActorPoolStrategy(min_size=1, initial_size=min(workers.count, len(found)))
    scored = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Actor,
        fn_constructor_args=[job],
        compute=actors,
        batch_size=1,
        **workers.resources(),
    )
    yield from scored.iter_batches(batch_size=None, batch_format="pyarrow")


@contextmanager
def _named(ray: Any) -> Iterator[None]:
    """Turns Ray's errors into our own that caused them, or into one line."""
    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error  # may be both Ray's and ours, with Ray's text
        while isinstance(cause, ray.exceptions.RayError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(cause, LabradorError):
            cause.args = (str(cause).partition("\n")[0],)  # Ray adds advice
            raise cause from error
        raise ClusterError(f"Ray: {one_line(cause or error)}") from error
