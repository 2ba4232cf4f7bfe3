"""The model store: the bundles of each name, by version, and which version is released.

It is a folder, or the objects below a URL such as `s3://bucket/prefix`: `<name>/<version>/…`, and
`<name>/RELEASED`, which holds the number of the version that is served by default.
"""

import os
import re
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from models.bundle import Bundle
from models.errors import BundleError, ReleaseError, SignatureError
from models.manifest import Manifest
from models.signing.signature import Signer, Trust
from models.storage.folder import Folder
from models.storage.storage import RELEASED_FILE, VERSION, Make, Storage, TakenError, overtaken

_PACKAGE = Path(__file__).parent
_INSTALLED = _PACKAGE.parent == Path(sysconfig.get_path("purelib"))  # from a wheel, not a checkout
DEFAULT_ROOT = Path("models/bundles") if _INSTALLED else _PACKAGE / "bundles"
ROOT_VARIABLE = "LABRADOR_MODEL_STORE"  # environment variables, for training and serving
TRUST_VARIABLE = "LABRADOR_TRUST"
CACHE_MB = 4096  # a ResNet-50 in three forms is 180 MB
SCHEMES = ("s3", "gs", "az")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def location(text: str) -> Path | str:
    """Where a store is: a URL stays one, anything else is a folder. Raises BundleError for a URL
    of another kind.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    if scheme not in SCHEMES or not rest.strip("/"):
        valid = ", ".join(f"{scheme}://BUCKET/PREFIX" for scheme in SCHEMES)
        raise BundleError(f"{text} is not a model store; valid: a folder, {valid}")
    return text.rstrip("/")


def default_location() -> Path | str:
    """What $LABRADOR_MODEL_STORE says, else the folder `models/bundles`."""
    text = os.environ.get(ROOT_VARIABLE)
    return location(text) if text else DEFAULT_ROOT


def default_trust() -> Path | None:
    """What $LABRADOR_TRUST says: a file or folder of public keys."""
    text = os.environ.get(TRUST_VARIABLE)
    return Path(text) if text else None


@dataclass(frozen=True)
class Store:
    """All bundles below one folder or URL. Raises BundleErrors that name the valid choices.

    trust: public keys; `read` then refuses a bundle that none of them has signed. cache_mb: MiB on
    this machine for what is pulled from a URL.
    """

    where: Path | str = DEFAULT_ROOT
    trust: Path | None = None
    cache_mb: float = CACHE_MB

    @cached_property
    def _storage(self) -> Storage:
        if isinstance(self.where, Path):
            return Folder(self.where)
        # not on Windows, as the cache needs file locks
        from models.storage.bucket import Bucket
        from models.storage.cache import Cache, default_folder

        return Bucket(self.where, Cache(default_folder(), self.cache_mb))

    @property
    def root(self) -> Path:
        """The folder of a store that is one."""
        if isinstance(self.where, Path):
            return self.where
        raise BundleError(f"{self.where} is not a folder")

    def names(self) -> list[str]:
        """Names that have at least one bundle, sorted."""
        return sorted(filter(_NAME.fullmatch, self._storage.names()))

    def versions(self, name: str) -> list[int]:
        """Complete versions of `name`, ascending; empty if there are none."""
        found = self._storage.versions(_checked(name))
        return sorted(version for version, complete in found.items() if complete)

    def existing_versions(self, name: str) -> list[int]:
        """As `versions`, but raises BundleError if there are none."""
        if versions := self.versions(name):
            return versions
        raise BundleError(f"no model {name} in {self.where}; there are: {_list(self.names())}")

    def chosen(self, name: str | None) -> list[str]:
        """This name, or all, of which there must be one: a wrong folder is not an empty store."""
        if name is not None:
            self.existing_versions(name)
            return [name]
        if names := self.names():
            return names
        raise BundleError(f"there is no model in {self.where}: see --store and ${ROOT_VARIABLE}")

    def released(self, name: str) -> int:
        """The version of `name` that is served by default."""
        mark = self._storage.mark(_checked(name))
        if mark and VERSION.fullmatch(mark.text) and self._storage.has(name, int(mark.text)):
            return int(mark.text)
        versions, file = self.existing_versions(name), self._storage.address(name, RELEASED_FILE)
        if mark is None:
            raise BundleError(f"{name} has versions, but none is released: no {file}")
        raise BundleError(f"{file} says {mark.text!r:.40}; versions of {name}: {_list(versions)}")

    def released_or_none(self, name: str) -> int | None:
        """As `released`, but None where that raises BundleError."""
        try:
            return self.released(name)
        except BundleError:
            return None

    def resolve(self, reference: str) -> tuple[str, int]:
        """The name and version of `name` (its released version) or `name:version`."""
        name, _, version = reference.partition(":")
        if not _NAME.fullmatch(name) or (":" in reference and not VERSION.fullmatch(version)):
            raise BundleError(f"{reference!r:.80} is not a model: use NAME or NAME:VERSION")
        if not version:
            return name, self.released(name)
        self._check_has(name, int(version))
        return name, int(version)

    def address(self, reference: str) -> str:
        """Where `name:version` is: a folder or URL."""
        name, _, version = reference.partition(":")
        return self._storage.address(name, version)

    def path(self, reference: str) -> Path:
        """The folder of `name` or `name:version`; of a URL, pulled and checked against its hashes.

        Whoever uses the bundle calls `read`, which also checks who has signed it.
        """
        return self._storage.path(*self.resolve(reference))

    def read(self, reference: str) -> Bundle:
        """The bundle `name` or `name:version`, checked as in `bundle.read`.

        With trusted keys it must also be the version that it says it is: a signed bundle could have
        been copied to another name or number. Raises BundleError, of which SignatureError is one.
        """
        name, version = self.resolve(reference)
        if self.trust is None:
            return self._storage.read(name, version, None)
        found = self._storage.read(name, version, Trust(self.trust))
        own = (found.manifest.name, found.manifest.version)
        if own != (name, version):
            address = self._storage.address(name, version)
            raise SignatureError(f"{address} is {own[0]}:{own[1]}, and signed as that")
        return found

    def manifest(self, reference: str) -> Manifest:
        """Its manifest, without reading the other files."""
        return self._storage.manifest(*self.resolve(reference))

    def size_bytes(self, reference: str) -> int:
        """The size of all its files."""
        return self._storage.size_bytes(*self.resolve(reference))

    def add(self, name: str, make: Make, signer: Signer | None = None) -> Path:
        """Write the next version of `name` and return its folder.

        `make(version)` returns the manifest and the files; it is called again with the next number
        if another process has taken this one meanwhile. The first bundle of a name is released at
        once, later ones only by `release`.
        """
        while True:
            version = max(self._storage.versions(_checked(name)), default=0) + 1
            try:
                path = self._storage.write(name, *make(version), signer)
                break
            except TakenError:
                continue
        if self._storage.mark(name) is None:
            with suppress(ReleaseError):  # another process has released its first version
                self._storage.set_mark(name, version, None)
        return path

    def release(self, name: str, version: int, instead_of: int | None = None) -> None:
        """Make `version` the version that is served by default.

        Raises ReleaseError if RELEASED changes meanwhile, or says another version than `instead_of`
        already: of several releases at once, one wins, and in a bucket the others are told.
        """
        self._check_has(name, version)
        before = self._storage.mark(name)
        if instead_of is not None and (before is None or before.text != str(instead_of)):
            raise ReleaseError(overtaken(name, before))
        self._storage.set_mark(name, version, before)

    def released_since(self, name: str) -> str:
        """When `release` was last called for `name`: UTC, ISO 8601."""
        changed = datetime.fromtimestamp(self._storage.marked_s(name), UTC)
        return changed.isoformat(timespec="seconds")

    def remove(self, name: str, version: int) -> None:
        """Remove a version that is not released."""
        if version == self.released(name):
            raise BundleError(f"{name}:{version} is released: release another version first")
        self._check_has(name, version)
        self._storage.remove(name, version)

    def unfinished(self, name: str | None, older_than_s: float) -> list[str]:
        """What interrupted writers left in `name`, or in all, sorted; as `NAME/ENTRY`.

        older_than_s: seconds since it was last changed; a younger one may still be written.
        """
        return self._storage.unfinished(name, older_than_s)

    def unfinished_bytes(self, entry: str) -> int:
        return self._storage.unfinished_bytes(entry)

    def remove_unfinished(self, entry: str) -> None:
        self._storage.remove_unfinished(entry)

    def _check_has(self, name: str, version: int) -> None:
        if not self._storage.has(_checked(name), version):
            versions = self.existing_versions(name)
            raise BundleError(f"{name} has no version {version}; it has {_list(versions)}")


def _checked(name: str) -> str:
    if _NAME.fullmatch(name):
        return name
    raise BundleError(
        f"{name!r:.80} is not a valid name: use 1 to 63 lower-case letters, digits, - and _"
    )


def _list(choices: list[str] | list[int]) -> str:
    return ", ".join(str(choice) for choice in choices) or "none"
