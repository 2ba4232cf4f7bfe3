"""The project's errors. Each has a code and an HTTP status; commands print its message.

A message names the bad value and the valid choices, and never quotes a client's raw bytes.
"""

from http import HTTPStatus
from typing import Any, ClassVar


class LabradorError(Exception):
    """Base class of all errors that the project raises, with a message for the user."""

    code: ClassVar[str] = "internal"
    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR

    def problem(self) -> dict[str, Any]:
        """The error as an RFC 9457 problem object, with the extension member `code`."""
        return {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": str(self),
            "code": self.code,
        }


# Errors of the commands.


class RecipeError(LabradorError):
    """An invalid option or recipe value."""


class DataError(LabradorError):
    """Images or labels that cannot be used for training or evaluation."""


class RunError(LabradorError):
    """A run folder that is missing or incomplete, or that already exists."""


class BundleError(LabradorError):
    """A bundle that is missing, incomplete, corrupt or inconsistent."""


class SignatureError(BundleError):
    """A bundle that no trusted key has signed, or that was changed since."""


class KeysError(LabradorError):
    """Keys, to sign with or to trust, that are missing or cannot be used."""


class GateError(LabradorError):
    """A model whose scores differ from the expected ones."""


class ReleaseError(LabradorError):
    """A model that must not replace the released one."""


# Errors that a request can be answered with.


class BadParameter(LabradorError):
    code = "bad_parameter"
    status = HTTPStatus.BAD_REQUEST


class ImageMissing(LabradorError):
    code = "image_missing"
    status = HTTPStatus.BAD_REQUEST


class Unauthorized(LabradorError):
    code = "unauthorized"
    status = HTTPStatus.UNAUTHORIZED


class NotFound(LabradorError):
    code = "not_found"
    status = HTTPStatus.NOT_FOUND


class ModelUnknown(LabradorError):
    code = "model_unknown"
    status = HTTPStatus.NOT_FOUND


class MethodNotAllowed(LabradorError):
    code = "method_not_allowed"
    status = HTTPStatus.METHOD_NOT_ALLOWED


class ReadTimeout(LabradorError):
    code = "read_timeout"
    status = HTTPStatus.REQUEST_TIMEOUT


class BodyTooLarge(LabradorError):
    code = "body_too_large"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class TooManyImages(LabradorError):
    code = "too_many_images"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class FormatUnsupported(LabradorError):
    code = "format_unsupported"
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class ImageUndecodable(LabradorError):
    code = "image_undecodable"
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class ImageTooLarge(LabradorError):
    code = "image_too_large"
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class Overloaded(LabradorError):
    """The queue is full; `retry_after_s` says when to try again."""

    code = "overloaded"
    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelFailed(LabradorError):
    """The model's output is not usable; another image may fare better."""

    code = "model_failed"
    status = HTTPStatus.INTERNAL_SERVER_ERROR


class NotReady(LabradorError):
    code = "not_ready"
    status = HTTPStatus.SERVICE_UNAVAILABLE


class DeadlineExceeded(LabradorError):
    code = "deadline_exceeded"
    status = HTTPStatus.GATEWAY_TIMEOUT
