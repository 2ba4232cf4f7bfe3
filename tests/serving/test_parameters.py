import pytest

from models.errors import BadParameter
from serving.parameters import gather, number, timeout_s, whole_number

VALID = ("model", "top_k")


def test_query_and_form_fields_are_combined() -> None:
    assert gather([("model", "pets")], [("top_k", "3")], VALID) == {"model": "pets", "top_k": "3"}


def test_form_fields_may_be_json_as_the_client_of_bentoml_sends_them() -> None:
    assert gather([], [("model", '"pets"'), ("top_k", "null")], VALID) == {"model": "pets"}


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ([("top_k", "1"), ("top_k", "1")], []),
        ([("top_k", "1")], [("top_k", "1")]),
        ([], [("top_k", "1"), ("top_k", "2")]),
    ],
)
def test_a_parameter_given_twice_is_refused(
    query: list[tuple[str, str]], fields: list[tuple[str, str]]
) -> None:
    with pytest.raises(BadParameter, match="top_k is given twice"):
        gather(query, fields, VALID)


def test_an_unknown_parameter_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(BadParameter, match="'topk'; valid: model, top_k"):
        gather([("topk", "1")], [], VALID)
    with pytest.raises(BadParameter, match="'file'; valid: model, top_k"):
        gather([], [("file", "")], VALID)


@pytest.mark.parametrize("text", ["", "five", "5.5", "9" * 5000])
def test_a_whole_number_is_digits(text: str) -> None:
    with pytest.raises(BadParameter, match="top_k=.*whole number") as refusal:
        whole_number("top_k", text)
    assert len(str(refusal.value)) < 150
    assert whole_number("top_k", "5") == 5


def test_a_number_is_a_number() -> None:
    with pytest.raises(BadParameter, match="threshold='half': use a number"):
        number("threshold", "half")
    assert number("threshold", "0.5") == 0.5


def test_the_header_shortens_the_timeout_and_never_lengthens_it() -> None:
    assert timeout_s(None, 30) == 30
    assert timeout_s("250", 30) == 0.25
    assert timeout_s("9" * 400, 30) == 30


@pytest.mark.parametrize("text", ["0", "-5", "soon"])
def test_a_timeout_below_one_millisecond_is_refused(text: str) -> None:
    with pytest.raises(BadParameter, match="X-Timeout-Ms"):
        timeout_s(text, 30)
