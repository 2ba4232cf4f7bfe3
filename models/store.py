"""The model store: bundles in `<root>/<name>/<version>/`, and which version of each is released.

`<root>/<name>/RELEASED` holds the number of the version that is served by default.
"""

import os
import re
import secrets
import shutil
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from models import bundle
from models.errors import BundleError
from models.manifest import MANIFEST_FILE, Manifest

_PACKAGE = Path(__file__).parent
_INSTALLED = _PACKAGE.parent == Path(sysconfig.get_path("purelib"))  # from a wheel, not a checkout
DEFAULT_ROOT = Path("models/bundles") if _INSTALLED else _PACKAGE / "bundles"
ROOT_VARIABLE = "LABRADOR_MODEL_STORE"  # environment variable, for training and serving
RELEASED_FILE = "RELEASED"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


def default_root() -> Path:
    """The folder in $LABRADOR_MODEL_STORE, else `models/bundles`."""
    return Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT)


@dataclass(frozen=True)
class Store:
    """All bundles below one folder. Raises BundleErrors that name the valid choices."""

    root: Path = DEFAULT_ROOT

    def names(self) -> list[str]:
        """Names that have at least one bundle, sorted."""
        if not self.root.is_dir():
            return []
        found = (p.name for p in self.root.iterdir() if _NAME.fullmatch(p.name))
        return sorted(name for name in found if self.versions(name))

    def versions(self, name: str) -> list[int]:
        """Complete versions of `name`, ascending; empty if there are none."""
        return sorted(int(p.name) for p in self._taken(name) if (p / MANIFEST_FILE).is_file())

    def existing_versions(self, name: str) -> list[int]:
        """As `versions`, but raises BundleError if there are none."""
        if versions := self.versions(name):
            return versions
        raise BundleError(f"no model {name} in {self.root}; there are: {_list(self.names())}")

    def chosen(self, name: str | None) -> list[str]:
        """This name, or all, of which there must be one: a wrong folder is not an empty store."""
        if name is not None:
            self.existing_versions(name)
            return [name]
        if names := self.names():
            return names
        raise BundleError(f"there is no model in {self.root}: see --store and ${ROOT_VARIABLE}")

    def released(self, name: str) -> int:
        """The version of `name` that is served by default."""
        versions = self.existing_versions(name)
        file = self._folder(name) / RELEASED_FILE
        try:
            text = file.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError as error:
            raise BundleError(f"{name} has versions, but none is released: no {file}") from error
        if not _VERSION.fullmatch(text) or int(text) not in versions:
            raise BundleError(f"{file} says {text!r:.40}; versions of {name}: {_list(versions)}")
        return int(text)

    def released_or_none(self, name: str) -> int | None:
        """As `released`, but None where that raises BundleError."""
        try:
            return self.released(name)
        except BundleError:
            return None

    def path(self, reference: str) -> Path:
        """The folder of `name` (its released version) or `name:version`."""
        name, _, version = reference.partition(":")
        if not _NAME.fullmatch(name) or (":" in reference and not _VERSION.fullmatch(version)):
            raise BundleError(f"{reference!r:.80} is not a model: use NAME or NAME:VERSION")
        number = int(version) if version else self.released(name)
        if number not in (versions := self.existing_versions(name)):
            raise BundleError(f"{name} has no version {number}; it has {_list(versions)}")
        return self._folder(name) / str(number)

    def add(self, name: str, make: Callable[[int], tuple[Manifest, dict[str, bytes]]]) -> Path:
        """Write the next version of `name` and return its folder.

        `make(version)` returns the manifest and the files; it is called again with the next number
        if another process has taken this one meanwhile. The first bundle of a name is released at
        once, later ones only by `release`.
        """
        while True:
            version = max((int(p.name) for p in self._taken(name)), default=0) + 1
            path = self._folder(name) / str(version)
            try:
                bundle.write(path, *make(version))
                break
            except BundleError:
                if not path.exists():
                    raise
        if not (self._folder(name) / RELEASED_FILE).exists():
            self.release(name, version)
        return path

    def release(self, name: str, version: int) -> None:
        """Make `version` the version that is served by default."""
        if version not in (versions := self.existing_versions(name)):
            raise BundleError(f"{name} has no version {version}; it has {_list(versions)}")
        bundle.write_atomically(self._folder(name) / RELEASED_FILE, f"{version}\n".encode())

    def released_since(self, name: str) -> str:
        """When `release` was last called for `name`: UTC, ISO 8601."""
        changed_s = (self._folder(name) / RELEASED_FILE).stat().st_mtime
        return datetime.fromtimestamp(changed_s, UTC).isoformat(timespec="seconds")

    def remove(self, name: str, version: int) -> None:
        """Remove a version that is not released. It is gone at once, even if this is interrupted:
        its folder is renamed to an unfinished one first.
        """
        if version == self.released(name):
            raise BundleError(f"{name}:{version} is released: release another version first")
        path = self.path(f"{name}:{version}")
        renamed = path.with_name(f"{bundle.UNFINISHED_PREFIX}{version}-{secrets.token_hex(4)}")
        path.rename(renamed)
        self.remove_unfinished(renamed)

    def unfinished(self, name: str | None, older_than_s: float) -> list[Path]:
        """What interrupted writers left in the folder of `name`, or in all, sorted.

        older_than_s: seconds since it was last changed; a younger one may still be written.
        """
        found = self.root.glob(f"{name or '*'}/{bundle.UNFINISHED_PREFIX}*")
        return sorted(path for path in found if _age_s(path) > older_than_s)

    def remove_unfinished(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def _folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise BundleError(
                f"{name!r:.80} is not a valid name: use 1 to 63 lower-case letters, digits, - and _"
            )
        return self.root / name

    def _taken(self, name: str) -> list[Path]:
        """Every entry named by a version number, complete or not."""
        folder = self._folder(name)
        paths = folder.iterdir() if folder.is_dir() else []
        return [p for p in paths if _VERSION.fullmatch(p.name)]


def _age_s(path: Path) -> float:
    """Seconds since the file, or anything in the folder, was changed; 0 if it is gone."""
    try:
        return time.time() - max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
    except FileNotFoundError:
        return 0


def _list(choices: list[str] | list[int]) -> str:
    return ", ".join(str(choice) for choice in choices) or "none"
