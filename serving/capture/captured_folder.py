"""The folder of captured images, which several workers and machines may share: written and tidied.

Only what the capture wrote itself is ever removed: an answer that reads as one, and its image.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models import captured
from models.bundle import UNFINISHED_PREFIX, write_atomically
from models.captured import Captured
from models.errors import DataError

DAY_S = 86_400.0
_UNFINISHED_S = 3600.0  # a file that is still unfinished after this was left by a crash
_MODE = 0o640  # pictures may be private: for the owner and the group
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MARKER = """Images that the service was sent, and its answers (LABRADOR_CAPTURE).
They may show people. DATA for `inspect` and `train`: copy the folder, as old images are removed.
"""


@dataclass(frozen=True)
class _Kept:
    answer: Path
    files: list[Path]  # the image, if it is there, before its answer
    age_s: float
    size_bytes: int


class CapturedFolder:
    """Used by one thread, as its disk may be slow. Every method raises OSError."""

    def __init__(self, root: Path, max_bytes: int, days: float) -> None:
        """max_bytes: of all models together, also those of other workers. days: until removed."""
        self._root, self._max_bytes, self._max_age_s = root, max_bytes, days * DAY_S
        self.held_bytes = 0  # as of the last `tidy`, and what was kept since

    def keep(self, answer: Captured, picture: bytes) -> bool:
        """Write an image and its answer, each completely or not at all; False if it is there."""
        folder = self._root / answer.model
        if (folder / answer.file).exists():
            return False
        folder.mkdir(mode=0o770, exist_ok=True)
        if not (folder / captured.MARKER_FILE).exists():
            write_atomically(folder / captured.MARKER_FILE, _MARKER.encode(), _MODE)
        text = answer.model_dump_json(indent=2).encode()
        write_atomically(folder / captured.answer_file(answer.sha256), text, _MODE)
        write_atomically(folder / answer.file, picture, _MODE)
        self.held_bytes += len(text) + len(picture)
        if self.held_bytes > self._max_bytes:
            self.tidy()
        return True

    def tidy(self) -> None:
        """Remove what is too old and, while there is too much, the oldest.

        What cannot be read or removed is passed over, and the first such error raised at the end.
        """
        failed: list[OSError] = []
        kept = sorted(self._scan(failed), key=lambda one: -one.age_s)
        self.held_bytes = sum(one.size_bytes for one in kept)
        for one in kept:
            if one.age_s <= self._max_age_s and self.held_bytes <= self._max_bytes:
                break
            with _noted(failed):
                if _is_ours(one.answer):
                    for file in one.files:
                        file.unlink(missing_ok=True)
                self.held_bytes -= one.size_bytes
        if failed:
            raise failed[0]

    def _scan(self, failed: list[OSError]) -> Iterator[_Kept]:
        now_s = time.time()
        for marker in sorted(self._root.glob(f"*/{captured.MARKER_FILE}")):
            found = {entry.name: entry for entry in os.scandir(marker.parent)}
            for name, entry in found.items():
                stem = name.partition(".")[0]
                with _noted(failed):
                    if captured.is_answer(name):
                        pair = [stem + suffix for suffix in captured.SUFFIXES.values()]
                        files = [found[one] for one in (*pair, name) if one in found]
                        states = list(filter(None, map(_state, files)))
                        if states:
                            yield _Kept(
                                Path(entry.path),
                                [Path(file.path) for file in files],
                                now_s - max(state.st_mtime for state in states),
                                sum(state.st_size for state in states),
                            )
                    elif name.startswith(UNFINISHED_PREFIX):
                        state = _state(entry)
                        if state and now_s - state.st_mtime > _UNFINISHED_S:
                            Path(entry.path).unlink(missing_ok=True)


@contextlib.contextmanager
def _noted(failed: list[OSError]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        failed.append(error)


def _state(entry: "os.DirEntry[str]") -> os.stat_result | None:
    """None if it is no file, or another worker has just removed it."""
    with contextlib.suppress(FileNotFoundError):
        state = entry.stat(follow_symlinks=False)
        return state if stat.S_ISREG(state.st_mode) else None
    return None


def _is_ours(answer: Path) -> bool:
    try:
        captured.read(answer)
    except (DataError, FileNotFoundError):
        return False
    return True


def check_usable(root: Path) -> None:
    """Raises OSError unless files can be written to `root`, which is made if only it is missing."""
    root.mkdir(mode=0o770, exist_ok=True)
    trial = root / f"{UNFINISHED_PREFIX}trial-{os.getpid()}"
    trial.write_bytes(b"")
    trial.unlink()


def reason(error: OSError) -> str:
    """`full` or `unwritable`, for the metric."""
    return "full" if error.errno in _FULL else "unwritable"
