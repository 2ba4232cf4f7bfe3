"""`release`: export a run and serve it by default, unless it is worse than the released one."""

from collections.abc import Sequence

from models.manifest import Precision
from models.signing.signature import Signer
from models.store import Store
from training import output
from training.commands.export import print_result, serve_command
from training.hardware import pick_device
from training.recipe import Device
from training.release import release as releasing
from training.run_folder import Run
from training.tracking import trackers


def release(
    run: Run,
    name: str,
    store: Store,
    data_path: Sequence[str] | None,
    precisions: Sequence[Precision] | None,
    margin: float,
    allowed: Sequence[str],
    force: bool,
    device: Device,
    signer: Signer | None,
) -> None:
    path = releasing.release(
        run,
        name,
        store,
        pick_device(device),
        margin=margin,
        allowed=allowed,
        force=force,
        precisions=precisions,
        data_path=data_path,
        signer=signer,
    )
    print_result(path, store)
    trackers.register(run.path, path)
    output.note(f"next: {serve_command(name, int(path.name), store)}")
