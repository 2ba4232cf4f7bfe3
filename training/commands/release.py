"""`release`: export a run and serve it by default, unless it is worse than the released one."""

from collections.abc import Sequence

from models.manifest import Precision
from models.store import Store
from training.commands.export import print_result
from training.hardware import pick_device
from training.recipe import Device
from training.release import release as releasing
from training.run_folder import Run


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
    )
    print_result(path, store)
    print("next: bentoml build")
