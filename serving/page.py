"""The page at `/`, on which a person tries the models: its files, in `serving/page`, over HTTP.

Nothing of a request chooses a file on the disk: the files are read once, at the start.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from models.errors import NotFound
from models.preprocess import image_format

_FOLDER = Path(__file__).with_name("page")
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_MEDIA_TYPES[".svg"] = "image/svg+xml"
_POLICY = (  # a picture that was dropped is a blob: of the page itself
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class Page:
    """The page's files, by name."""

    def __init__(self) -> None:
        self._files = {
            file.name: (file.read_bytes(), _MEDIA_TYPES[file.suffix])
            for file in _FOLDER.iterdir()
            if file.suffix in _MEDIA_TYPES
        }

    def answer(self, request: Request, name: str = "index.html") -> Response:
        """Raises NotFound unless the page has such a file."""
        if name not in self._files:
            raise NotFound(f"no such file of the page; valid: {', '.join(sorted(self._files))}")
        content, media_type = self._files[name]
        return answer(request, content, media_type, {"Content-Security-Policy": _POLICY})


def picture(request: Request, data: bytes) -> Response:
    """A sample picture; kept by nobody but the client, as it may need a key."""
    return answer(request, data, f"image/{image_format(data).lower()}", private=True)


def answer(
    request: Request,
    content: bytes,
    media_type: str,
    headers: Mapping[str, str] | None = None,
    private: bool = False,
) -> Response:
    """The content, or 304 if the client has it: it asks each time, by a hash of the content."""
    tag = f'"{sha256(content).hexdigest()[:32]}"'
    caching = {"ETag": tag, "Cache-Control": "private, no-cache" if private else "no-cache"}
    every = {**_SAFE, **caching, **(headers or {})}
    held = request.headers.get("if-none-match", "")
    if tag in (each.strip().removeprefix("W/") for each in held.split(",")):
        return Response(status_code=304, headers=every)
    return Response(content, media_type=media_type, headers=every)
