"""Reads a request's body, with a size limit, into memory, and splits it into its parts.

Nothing is written to disk and nothing is fetched: a URL in the body is not an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from models.errors import (
    BadParameter,
    BodyTooLarge,
    FormatUnsupported,
    ImageMissing,
    TooManyImages,
)
from serving.bentoml_internals import PICKLE
from serving.bodies import Body
from serving.settings import PARTS_MAX

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

IMAGE_PART = "image"


@dataclass(frozen=True)
class Content:
    """The contents of a body: the image files, as sent and in order, and the form fields."""

    images: Sequence[bytes]
    fields: Sequence[tuple[str, str]]


async def read(receive: Receive, headers: Headers, max_bytes: int, body: Body) -> bytes:
    """The whole body, counted in `body` as it arrives.

    Raises BodyTooLarge as soon as there are more than `max_bytes`, or at once if Content-Length
    announces more, Overloaded if bodies take too much memory, and ClientDisconnect if the client
    disconnects.
    """
    if int(headers.get("content-length", 0)) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        if body.size + len(chunk) > max_bytes:
            raise _too_large(max_bytes)
        body.add(len(chunk))
        chunks.append(chunk)
        if not message.get("more_body", False):
            body.complete()
            return b"".join(chunks)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {max_bytes / 2**20:g} MiB")


def take_apart(body: bytes, headers: Headers) -> Content:
    """The images and form fields of a body.

    multipart/form-data is parsed. Any other body is one image, whatever its Content-Type, because
    the bytes decide the format. Raises ImageMissing, TooManyImages, BadParameter and, for a
    pickled request, FormatUnsupported.
    """
    kind, options = parse_options_header(headers.get("content-type"))
    if kind == PICKLE.encode():
        raise FormatUnsupported(
            "the request is a pickle, which can run code when it is read: send the image itself, or"
            " a multipart form, as bentoml.SyncHTTPClient(URL) and bentoml.depends(Labrador) do"
        )
    if not body:
        parts = []
    elif kind == b"multipart/form-data":
        parts = _parts(body, options.get(b"boundary", b""))
    else:
        parts = [(IMAGE_PART, body)]
    images = [data for name, data in parts if name == IMAGE_PART]
    if not images:
        raise ImageMissing(f"send one image as the body, or as multipart parts named {IMAGE_PART}")
    return Content(images, [(name, _text(data)) for name, data in parts if name != IMAGE_PART])


def _parts(body: bytes, boundary: bytes) -> list[tuple[str, bytes]]:
    """The name and content of each part of a multipart body."""
    if not boundary:
        raise BadParameter("the multipart Content-Type names no boundary")
    form = _Form()
    try:
        MultipartParser(boundary, form.callbacks()).write(body)
    except FormParserError as error:
        raise BadParameter("the multipart body is malformed") from error
    if not form.complete:
        raise BadParameter("the multipart body is incomplete")
    return form.parts


class _Form:
    """Collects the parser's callbacks, in the order: begin, headers, data, end."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, bytes]] = []
        self.complete = False
        self._name = ""
        self._header = b""
        self._value = b""
        self._data: list[bytes] = []

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_header,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_part_data": self._add_data,
            "on_part_end": self._end,
            "on_end": self._complete,
        }

    def _begin(self) -> None:
        if len(self.parts) == PARTS_MAX:
            raise TooManyImages(f"a body has {PARTS_MAX} parts at most")
        self._name, self._data = "", []

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._name = options.get(b"name", b"").decode(errors="replace")
        self._header = self._value = b""

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _end(self) -> None:
        self.parts.append((self._name, b"".join(self._data)))

    def _complete(self) -> None:
        self.complete = True


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadParameter("a form field is not UTF-8 text") from error
