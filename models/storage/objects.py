"""The objects below a URL: what obstore does, with errors of one line.

Credentials, region and endpoint come from the cloud's own environment variables, or from the
identity of the machine or pod, as obstore finds them. No message contains them.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from models.errors import BundleError
from models.storage.storage import Tag
from models.wording import installing

CLIENT: dict[str, Any] = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=20),  # between two reads
    "timeout": timedelta(minutes=10),  # of a whole request: 170 MB may take long
}
RETRIES: dict[str, Any] = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
_NO_BUCKET = "<Code>NoSuchBucket<"
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")


class ObjectStoreError(OSError):
    """Objects that cannot be read or written now: the network, the server or the credentials."""


class ConflictError(Exception):
    """What a conditional write would have replaced is something else by now."""


@dataclass(frozen=True)
class Found:
    """An object; modified_s: since 1970."""

    data: bytes
    tag: Tag
    modified_s: float


@dataclass(frozen=True)
class Listed:
    """An object of a listing; modified_s: since 1970."""

    path: str
    size_bytes: int
    modified_s: float


class Objects:
    """Paths are relative to the URL. All methods raise ObjectStoreError."""

    def __init__(self, url: str) -> None:
        """Raises BundleError, with one line, if obstore is missing or refuses the configuration."""
        try:
            import obstore
            import obstore.store
        except ModuleNotFoundError as error:
            raise BundleError(
                f"{url} needs {error.name}, which is not installed: {installing('object-store')}"
            ) from error
        self.url = url
        self._obstore: Any = obstore  # its stubs refuse timedelta in a dict, and what `_tag` makes
        # Without TLS only where the endpoint that was given is so.
        plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
        try:
            self._store = self._obstore.store.from_url(
                url, client_options={**CLIENT, "allow_http": plain}, retry_config=RETRIES
            )
        except self._obstore.exceptions.BaseError as error:
            raise BundleError(f"{url} cannot be used: {_reason(error)}") from error

    def get(self, path: str, known: Found | None = None) -> Found | None:
        """The object, None if there is none; `known` itself, without a transfer, if it is still
        that one.
        """
        options = {"if_none_match": dict(known.tag)["e_tag"]} if known else {}
        with self._named(path, "read"):
            try:
                answer = self._obstore.get(self._store, path, options=options)
                data = bytes(answer.bytes())
            except self._obstore.exceptions.NotModifiedError:
                return known
            except FileNotFoundError as error:
                if _NO_BUCKET in str(error):
                    raise
                return None
            return Found(data, _tag(answer.meta), answer.meta["last_modified"].timestamp())

    def chunks(self, path: str) -> Iterator[bytes]:
        """The object's bytes, piece by piece. Raises FileNotFoundError if there is none."""
        with self._named(path, "read"):
            for chunk in self._obstore.get(self._store, path).stream():
                yield bytes(chunk)

    def put(self, path: str, data: bytes | Path) -> None:
        with self._named(path, "written"):
            self._obstore.put(self._store, path, data)

    def replace(self, path: str, data: bytes, before: Tag) -> None:
        """Write the object. Raises ConflictError if its tag is no longer `before`; empty: if there
        is one.

        As a request that was cut off is sent again, that may also be of its own first attempt.
        """
        mode = dict(before) if before else "create"
        exceptions = self._obstore.exceptions
        with self._named(path, "written"):
            try:
                self._obstore.put(self._store, path, data, mode=mode)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
                raise ConflictError from error

    def delete(self, paths: Sequence[str]) -> None:
        with self._named(paths[0], "deleted"):
            self._obstore.delete(self._store, list(paths))

    def listing(self, prefix: str | None) -> Iterator[Listed]:
        """Every object below the folder `prefix`, or all."""
        with self._named(prefix or "", "listed"):
            for found in self._obstore.list(self._store, prefix):
                for one in found:
                    yield Listed(one["path"], one["size"], one["last_modified"].timestamp())

    def folders(self) -> list[str]:
        """The folders right below the URL."""
        with self._named("", "listed"):
            found = self._obstore.list_with_delimiter(self._store)
            return [prefix.strip("/") for prefix in found["common_prefixes"]]

    def address(self, path: str) -> str:
        return f"{self.url}/{path}".rstrip("/")

    @contextmanager
    def _named(self, path: str, done: str) -> Iterator[None]:
        """Turns obstore's errors into ones that say what could not be `done` with `path`."""
        try:
            yield
        except (self._obstore.exceptions.BaseError, FileNotFoundError) as error:
            if isinstance(error, FileNotFoundError) and _NO_BUCKET not in str(error):
                raise
            raise ObjectStoreError(
                f"{self.address(path)} cannot be {done}: {_reason(error)}"
            ) from error


def _tag(meta: Any) -> Tag:
    return tuple((name, meta[name]) for name in ("e_tag", "version") if meta[name])


def _reason(error: Exception) -> str:
    """What is wrong, of an obstore error: it has many lines, which may quote credentials."""
    text = str(error)
    line = text.partition("\n")[0].partition("<")[0].rpartition(" - ")[2]
    noise = r"\?\S*|Server returned non-2xx status code: |(HTTP|Generic \w+) error: "
    reason = re.sub(noise, "", line).rstrip(": ").replace("error sending request", "no answer")
    code = re.search(r"<Code>(\w+)</Code>|kind: (Timeout)", text)
    return f"{reason} ({code[1] or code[2]})" if code else reason
