"""The files of DATA that no record uses: named, so that none is passed over in silence."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePath

from models.wording import counted

_OF_SYSTEMS = {"__macosx", "thumbs.db", "desktop.ini"}
_KINDS = 4  # suffixes that are counted by name
_SUFFIX_LENGTH = 8  # of what still looks like one, with its dot


def is_of_the_system(name: str) -> bool:
    """Whether a file or folder is hidden, or is what systems leave beside images."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def find(root: Path, used: Collection[str], apart: Iterable[Path], table: bool) -> tuple[str, ...]:
    """The files below `root` that are neither `used` nor `apart`, relative to it, sorted.

    used: relative to the root. apart: files that are there for another reason, such as lists.
    table: the root may be any folder, even a home; only those of its folders that hold a used file
    are searched, and its own files only if one of them is used.
    """
    top = os.path.abspath(root)
    # a name in a table may be ./a.jpg, ../a.jpg or absolute, or go through a link to a folder
    known = {os.path.normpath(os.path.join(top, name)) for name in used}
    parents = {os.path.dirname(file) for file in known}
    known |= parents | {os.path.abspath(file) for file in apart}
    searched = {os.path.relpath(parent, top).partition(os.sep)[0] for parent in parents}
    found: list[str] = []
    for name in os.listdir(top) if os.path.isdir(top) else ():
        file = os.path.join(top, name)
        if is_of_the_system(name):
            continue
        if not os.path.isdir(file):
            found += [file] if not table or os.curdir in searched else []
        elif not table or name in searched:
            found += _files_below(file)
    left = (file for file in found if file not in known)
    return tuple(sorted(PurePath(os.path.relpath(file, top)).as_posix() for file in left))


def _files_below(top: str) -> Iterator[str]:
    """The files below a folder; a link to a folder is not followed, but counts as a file."""
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if not is_of_the_system(name)]
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        yield from (os.path.join(folder, n) for n in (*files, *links) if not is_of_the_system(n))


def described(files: Collection[str], strays: Collection[str]) -> str:
    """The files counted by their suffix, such as `3 files not used (2 .gif, 1 .txt)`.

    strays: those among them that are images next to class folders.
    """
    kinds = Counter(map(_suffix, files)).most_common()
    shown = [f"{count:,} {kind}" for kind, count in kinds[:_KINDS]]
    if rest := sum(count for _, count in kinds[_KINDS:]):
        shown.append(counted(rest, "other"))
    text = f"{counted(len(files), 'file')} not used"
    if shown:
        text += f" ({', '.join(shown)})"
    if strays:
        images = counted(len(strays), "image")
        text += f", among them {images} next to the class folders, without a label"
    return text


def _suffix(file: str) -> str:
    suffix = PurePath(file).suffix.lower()
    looks = suffix[1:].isalnum() and suffix.isascii() and len(suffix) <= _SUFFIX_LENGTH
    return suffix if looks else "without a suffix"
