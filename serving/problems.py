"""Errors as HTTP answers: RFC 9457 problem objects."""

import json
import logging
import traceback

from starlette.exceptions import HTTPException
from starlette.responses import Response

from models.errors import (
    LabradorError,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    ReadTimeout,
    Unauthorized,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


def as_problem(error: Exception, paths: list[str]) -> tuple[LabradorError, dict[str, str]]:
    """The problem to answer an error with, and its headers. paths: the valid paths.

    An unexpected error becomes `internal`: the log gets its traceback, but not its message, which
    may quote the client.
    """
    match error:
        case Overloaded():
            return error, {"Retry-After": str(error.retry_after_s)}
        case Unauthorized():
            return error, {"WWW-Authenticate": "Bearer"}
        case ReadTimeout():  # the rest of the body may never come
            return error, {"Connection": "close"}
        case LabradorError():
            return error, {}
        case HTTPException(status_code=404):
            return NotFound(f"no such path; valid: {', '.join(paths)}"), {}
        case HTTPException(status_code=405):
            allow = (error.headers or {}).get("Allow", "GET")
            return MethodNotAllowed(f"this path accepts only {allow}"), {"Allow": allow}
    places = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s, at\n%s", type(error).__name__, places)
    return LabradorError("the service failed; its log has the traceback"), {}


def respond(problem: LabradorError, headers: dict[str, str]) -> Response:
    content = json.dumps(problem.problem()).encode()
    return Response(content, problem.status, headers, MEDIA_TYPE)
