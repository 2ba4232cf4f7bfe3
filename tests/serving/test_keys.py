import pytest
from starlette.datastructures import Headers

from models.errors import Unauthorized
from serving.keys import Keys


def test_without_keys_everybody_may_ask() -> None:
    Keys([]).check(Headers({}))


@pytest.mark.parametrize("value", ["Bearer one", "bearer two", "BEARER  two "])
def test_each_key_opens(value: str) -> None:
    Keys([b"one", b"two"]).check(Headers({"Authorization": value}))


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Bearer onetwo", "Basic one", "one"])
def test_anything_else_is_unauthorized(value: str) -> None:
    with pytest.raises(Unauthorized):
        Keys([b"one", b"two"]).check(Headers({"Authorization": value}))
