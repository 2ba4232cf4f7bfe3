"""Public data sets by name, downloaded once through torchvision."""

import io
import shutil
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr
from pathlib import Path

from filelock import FileLock

from models.cache_folder import cache_folder
from models.errors import DataError
from models.wording import on_one_line
from training import output


def _oxford_pets(folder: Path) -> None:
    from torchvision.datasets import OxfordIIITPet  # takes seconds, and is rarely needed

    OxfordIIITPet(folder, download=True)


def _voc2007(folder: Path) -> None:
    from torchvision.datasets import VOCDetection

    for side in ("trainval", "test"):
        VOCDetection(folder, year="2007", image_set=side, download=True)


_SETS: dict[str, tuple[Callable[[Path], None], str]] = {  # with the folder inside the archives
    "oxford-pets": (_oxford_pets, "oxford-iiit-pet"),
    "voc2007": (_voc2007, "VOCdevkit/VOC2007"),
}
NAMES = tuple(_SETS)


def folder(name: str) -> Path:
    """The folder of the data set `name`, one of NAMES, in the cache.

    It is downloaded if it is missing; an interrupted download is discarded. Raises DataError.
    """
    download, inside = _SETS[name]
    whole = cache_folder() / name
    if not whole.is_dir():
        try:
            cache_folder().mkdir(parents=True, exist_ok=True)
            with FileLock(f"{whole}.lock"):  # of several processes one downloads
                if not whole.is_dir():
                    _download(download, whole)
        except Exception as error:  # from the network, the disk, the archive, the checksum
            reason = on_one_line(error) or type(error).__name__
            raise DataError(
                f"{name} cannot be downloaded to {cache_folder()}: {reason}; download it by other"
                " means and give its folder as DATA"
            ) from error
    return whole / inside


def _download(download: Callable[[Path], None], whole: Path) -> None:
    output.note(f"downloading {whole.name} to {whole}")
    partial = whole.with_name(f"{whole.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    bars = nullcontext() if output.shown() else redirect_stderr(io.StringIO())
    with bars:  # torchvision's, which it draws into a pipe too
        download(partial)
    partial.rename(whole)  # so a folder without the suffix is complete
