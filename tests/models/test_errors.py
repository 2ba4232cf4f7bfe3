import inspect
import json

import pytest

from models import errors
from models.errors import LabradorError, NotReady, Overloaded

# The API's promise to its clients: `product.md`.
PROMISED = {
    "bad_parameter": 400,
    "image_missing": 400,
    "unauthorized": 401,
    "not_found": 404,
    "model_unknown": 404,
    "method_not_allowed": 405,
    "read_timeout": 408,
    "body_too_large": 413,
    "too_many_images": 413,
    "format_unsupported": 415,
    "image_undecodable": 422,
    "image_too_large": 422,
    "overloaded": 429,
    "internal": 500,
    "model_failed": 500,
    "not_ready": 503,
    "deadline_exceeded": 504,
}
CLASSES = [
    found
    for found in vars(errors).values()
    if inspect.isclass(found) and issubclass(found, LabradorError)
]


def test_every_promised_code_has_its_status() -> None:
    assert {found.code: found.status.value for found in CLASSES} == PROMISED


def test_every_error_is_a_labrador_error_and_request_errors_have_their_own_codes() -> None:
    exceptions = [
        found
        for found in vars(errors).values()
        if inspect.isclass(found) and issubclass(found, Exception)
    ]
    assert exceptions == CLASSES
    codes = [found.code for found in CLASSES if found.code != "internal"]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    "name", ["RecipeError", "DataError", "RunError", "BundleError", "GateError"]
)
def test_a_commands_error_is_internal_to_a_client(name: str) -> None:
    found = getattr(errors, name)
    assert (found.code, found.status.value) == ("internal", 500)


def test_a_problem_is_an_rfc_9457_object_with_the_code() -> None:
    problem = NotReady("the model warms up").problem()
    assert json.loads(json.dumps(problem)) == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "the model warms up",
        "code": "not_ready",
    }


def test_overloaded_says_when_to_try_again() -> None:
    error = Overloaded("the queue is full", 7)
    assert error.retry_after_s == 7
    assert error.problem()["detail"] == "the queue is full"
