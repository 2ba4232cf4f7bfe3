import json

import pytest
from starlette.exceptions import HTTPException

from models.errors import BadParameter, LabradorError, Overloaded, ReadTimeout, Unauthorized
from serving.problems import as_problem, respond


@pytest.mark.parametrize(
    ("error", "status", "code", "headers"),
    [
        (BadParameter("top_k=0"), 400, "bad_parameter", {}),
        (Unauthorized("no key"), 401, "unauthorized", {"www-authenticate": "Bearer"}),
        (HTTPException(404), 404, "not_found", {}),
        (
            HTTPException(405, headers={"Allow": "POST"}),
            405,
            "method_not_allowed",
            {"allow": "POST"},
        ),
        (ReadTimeout("slow"), 408, "read_timeout", {"connection": "close"}),
        (Overloaded("full", 7), 429, "overloaded", {"retry-after": "7"}),
        (ValueError("secret"), 500, "internal", {}),
    ],
)
def test_every_error_becomes_a_problem(
    error: Exception, status: int, code: str, headers: dict[str, str]
) -> None:
    response = respond(*as_problem(error, ["/classify"]))
    problem = json.loads(bytes(response.body))
    assert response.status_code == problem["status"] == status
    assert problem["code"] == code
    assert set(problem) == {"type", "title", "status", "detail", "code"}
    assert response.headers["content-type"] == "application/problem+json"
    assert headers.items() <= dict(response.headers).items()


def test_an_unexpected_errors_message_reaches_neither_client_nor_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = "what the client wrote"
    try:
        raise ValueError(secret)
    except ValueError as error:
        problem, _ = as_problem(error, [])
    assert type(problem) is LabradorError
    assert secret not in str(problem) + caplog.text
    assert "ValueError, at" in caplog.text
    assert "test_problems.py" in caplog.text
