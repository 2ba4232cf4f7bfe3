"""A store in an object store: `<url>/<name>/<version>/…` and `<url>/<name>/RELEASED`.

A version's `manifest.sha256`, created only if there is none, takes its number, and its
`manifest.json`, written last, completes it. RELEASED is replaced only if it is still what was read.
To be used, a version is pulled into a local cache (`models/storage/pull.py`).
"""

import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from models import bundle
from models.bundle import Bundle
from models.errors import BundleError, ReleaseError
from models.manifest import MANIFEST_FILE, MANIFEST_HASH_FILE, Manifest
from models.signing.signature import Signer, Trust
from models.storage import pull
from models.storage.cache import Cache
from models.storage.objects import ConflictError, Found, Listed, Objects
from models.storage.storage import RELEASED_FILE, VERSION, Mark, TakenError, overtaken


class Bucket:
    """The storage of a `Store` that is a URL; see `models/storage/storage.py`.

    It remembers which versions are complete, as a bundle never changes, and the last RELEASED of
    each name: to look whether that is still the same is one request, answered without a body.
    """

    def __init__(self, url: str, cache: Cache) -> None:
        """Raises BundleError if the URL cannot be used."""
        self._objects = Objects(url)
        self._cache = cache
        self._complete: set[tuple[str, int]] = set()
        self._released: dict[str, Found] = {}

    def names(self) -> list[str]:
        seen = {name for name, _ in self._complete}
        return [
            name
            for name in self._objects.folders()
            if name in seen or any(self.versions(name).values())
        ]

    def versions(self, name: str) -> dict[int, bool]:
        found = {
            number: any(one.path == f"{name}/{number}/{MANIFEST_FILE}" for one in listed)
            for (_, number), listed in self._by_version(name).items()
        }
        others = {pair for pair in self._complete if pair[0] != name}
        self._complete = others | {(name, number) for number, whole in found.items() if whole}
        return found

    def has(self, name: str, version: int) -> bool:
        return (name, version) in self._complete or self.versions(name).get(version, False)

    def address(self, name: str, entry: int | str) -> str:
        return self._objects.address(f"{name}/{entry}")

    def mark(self, name: str) -> Mark | None:
        found = self._objects.get(f"{name}/{RELEASED_FILE}", self._released.get(name))
        if found is None:
            self._released.pop(name, None)
            return None
        self._released[name] = found
        return Mark(found.data.decode(errors="replace").strip(), found.tag)

    def set_mark(self, name: str, version: int, before: Mark | None) -> None:
        path, tag = f"{name}/{RELEASED_FILE}", before.tag if before else ()
        try:
            self._objects.replace(path, f"{version}\n".encode(), tag)
        except ConflictError as error:
            now = self.mark(name)
            if now is None or now.text != str(version):  # else it was the first attempt of this
                raise ReleaseError(overtaken(name, now)) from error
        if not self.versions(name).get(version):  # removed since it was chosen
            written = self.mark(name)
            if before and written and written.text == str(version):
                with suppress(ConflictError):  # yet another one was released
                    self._objects.replace(path, f"{before.text}\n".encode(), written.tag)
            raise BundleError(f"{self.address(name, version)} was removed in the meantime")

    def marked_s(self, name: str) -> float:
        self.mark(name)
        if found := self._released.get(name):
            return found.modified_s
        raise BundleError(f"there is no {self.address(name, RELEASED_FILE)}")

    def path(self, name: str, version: int) -> Path:
        return self.read(name, version, None).path

    def read(self, name: str, version: int, trust: Trust | None) -> Bundle:
        return pull.read(self._objects, self._cache, f"{name}/{version}", trust)

    def manifest(self, name: str, version: int) -> Manifest:
        return pull.manifest(self._objects, f"{name}/{version}")

    def size_bytes(self, name: str, version: int) -> int:
        return self.unfinished_bytes(f"{name}/{version}")

    def write(
        self, name: str, manifest: Manifest, files: Mapping[str, bytes], signer: Signer | None
    ) -> Path:
        """The folder is in the cache."""
        version, folder = manifest.version, f"{name}/{manifest.version}"
        self._cache.make_room(sum(map(len, files.values())))
        with self._cache.held(bundle.sha256(bundle.manifest_text(manifest))) as entry:
            path = entry / folder
            if path.is_dir():
                shutil.rmtree(path)
            bundle.write(path, manifest, files, signer)
            hash_line = (path / MANIFEST_HASH_FILE).read_bytes()
            try:
                self._objects.replace(f"{folder}/{MANIFEST_HASH_FILE}", hash_line, ())
            except ConflictError as error:
                shutil.rmtree(path)
                raise TakenError(f"{self.address(name, version)} is taken") from error
            written = [file for file in path.rglob("*") if file.is_file()]
            rest = {file.relative_to(path).as_posix() for file in written}
            for file in (*sorted(rest - {MANIFEST_HASH_FILE, MANIFEST_FILE}), MANIFEST_FILE):
                self._objects.put(f"{folder}/{file}", path / file)
        self._complete.add((name, version))
        return path

    def remove(self, name: str, version: int) -> None:
        """It is gone at once, even if this is interrupted: its manifest is deleted first."""
        file = f"{name}/{version}/{MANIFEST_FILE}"
        manifest = self._objects.get(file)
        self._complete.discard((name, version))
        self._objects.delete([file])
        mark = self.mark(name)
        if manifest and mark and mark.text == str(version):
            self._objects.put(file, manifest.data)
            raise BundleError(f"{name}:{version} was released in the meantime: it stays")
        self.remove_unfinished(f"{name}/{version}")

    def unfinished(self, name: str | None, older_than_s: float) -> list[str]:
        now_s = time.time()
        return [
            f"{model}/{version}"
            for (model, version), listed in sorted(self._by_version(name).items())
            if not any(one.path == f"{model}/{version}/{MANIFEST_FILE}" for one in listed)
            and now_s - max(one.modified_s for one in listed) > older_than_s
        ]

    def unfinished_bytes(self, entry: str) -> int:
        return sum(one.size_bytes for one in self._objects.listing(entry))

    def remove_unfinished(self, entry: str) -> None:
        if paths := [one.path for one in self._objects.listing(entry)]:
            self._objects.delete(paths)

    def _by_version(self, name: str | None) -> dict[tuple[str, int], list[Listed]]:
        """The objects of each version, complete or not, of `name` or of all."""
        found: dict[tuple[str, int], list[Listed]] = {}
        for one in self._objects.listing(name):
            model, _, rest = one.path.partition("/")
            version, _, file = rest.partition("/")
            if file and VERSION.fullmatch(version):
                found.setdefault((model, int(version)), []).append(one)
        return found
