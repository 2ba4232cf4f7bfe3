import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from models.errors import BadParameter, BodyTooLarge, FormatUnsupported, ImageMissing, TooManyImages
from serving import body as module
from serving.bodies import Bodies
from serving.body import take_apart

MULTIPART = Headers({"Content-Type": "multipart/form-data; boundary=edge"})


def _receiving(messages: Sequence[dict[str, Any]]) -> Receive:
    left = iter(messages)

    async def receive() -> Message:
        return next(left)

    return receive


def _chunks(*chunks: bytes) -> list[dict[str, Any]]:
    last = len(chunks) - 1
    return [
        {"type": "http.request", "body": chunk, "more_body": number < last}
        for number, chunk in enumerate(chunks)
    ]


def _part(name: str, data: bytes, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"{file}\r\n'
    return head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + data + b"\r\n"


END = b"--edge--\r\n"


async def read(receive: Receive, headers: Headers, max_bytes: int) -> bytes:
    with Bodies(2**30).body() as body:
        return await module.read(receive, headers, max_bytes, body)


def test_a_body_is_joined_from_its_chunks() -> None:
    body = asyncio.run(read(_receiving(_chunks(b"one", b"", b"two")), Headers({}), 6))
    assert body == b"onetwo"


def test_a_body_is_limited_whatever_its_content_length() -> None:
    headers = Headers({"Content-Length": "1"})
    with pytest.raises(BodyTooLarge):
        asyncio.run(read(_receiving(_chunks(b"one", b"two!")), headers, 6))


def test_a_body_that_announces_too_large_a_size_is_not_read() -> None:
    with pytest.raises(BodyTooLarge):
        asyncio.run(read(_receiving([]), Headers({"Content-Length": "7"}), 6))


@pytest.mark.parametrize(("length", "limit"), [(6, 6), (0, 0)])
def test_a_body_of_the_largest_size_is_read(length: int, limit: int) -> None:
    body = bytes(length)
    for headers in (Headers({}), Headers({"Content-Length": str(length)})):
        assert asyncio.run(read(_receiving(_chunks(body)), headers, limit)) == body


def test_the_largest_size_is_given_in_mib() -> None:
    with pytest.raises(BodyTooLarge, match="^the body has more than 3 MiB$"):
        asyncio.run(read(_receiving([]), Headers({"Content-Length": "3145729"}), 3 * 2**20))


def test_a_message_without_a_body_counts_as_an_empty_last_one() -> None:
    messages = [*_chunks(b"one", b"")[:1], {"type": "http.request"}]
    assert asyncio.run(read(_receiving(messages), Headers({}), 6)) == b"one"


def test_a_client_that_disconnects_raises_its_own_error() -> None:
    messages = [*_chunks(b"one", b"two")[:1], {"type": "http.disconnect"}]
    with pytest.raises(ClientDisconnect):
        asyncio.run(read(_receiving(messages), Headers({}), 6))


@pytest.mark.parametrize("kind", ["image/jpeg", "application/x-www-form-urlencoded", "text/x", ""])
def test_any_other_body_is_one_image_whatever_its_content_type(kind: str) -> None:
    content = take_apart(b"bytes", Headers({"Content-Type": kind}))
    assert (content.images, content.fields) == ([b"bytes"], [])


def test_a_pickle_is_refused_and_not_loaded() -> None:
    with pytest.raises(FormatUnsupported, match="a pickle, which can run code"):
        take_apart(b"bytes", Headers({"Content-Type": "application/vnd.bentoml+pickle"}))


def test_multipart_images_and_fields_are_separated_in_order() -> None:
    body = (
        _part("image", b"a\r\n--edg", "a.jpg") + _part("top_k", b"3") + _part("image", b"b") + END
    )
    content = take_apart(body, MULTIPART)
    assert content.images == [b"a\r\n--edg", b"b"]
    assert content.fields == [("top_k", "3")]


def test_a_part_has_its_own_name_or_none_whatever_its_other_headers() -> None:
    disposition = b"content-DISPOSITION: form-data; filename=x"
    body = (
        b"--edge\r\nContent-Type: a/b\r\n" + disposition + b"; name=image\r\n\r\none\r\n"
        b"--edge\r\nX-Name: name=image\r\n\r\ntwo\r\n"
        b"--edge\r\n" + disposition + b"\r\nX-Name: name=image\r\n\r\nthree\r\n"
        b"--edge\r\n" + disposition + b"; name=\xffage\r\n\r\nfour\r\n" + END
    )
    content = take_apart(body, MULTIPART)
    assert content.images == [b"one"]
    assert content.fields == [("", "two"), ("", "three"), ("\ufffdage", "four")]


def test_an_empty_part_is_an_image_without_bytes() -> None:
    assert take_apart(_part("image", b"", "a.jpg") + END, MULTIPART).images == [b""]


@pytest.mark.parametrize("body", [b"", END, _part("top_k", b"3") + END])
def test_without_an_image_part_the_image_is_missing(body: bytes) -> None:
    with pytest.raises(
        ImageMissing, match="^send one image as the body, or as multipart parts named image$"
    ):
        take_apart(body, MULTIPART)


def test_an_empty_body_has_no_image() -> None:
    with pytest.raises(ImageMissing):
        take_apart(b"", Headers({"Content-Type": "image/jpeg"}))


def test_at_most_64_parts_are_accepted() -> None:
    assert len(take_apart(_part("image", b"x") * 64 + END, MULTIPART).images) == 64
    with pytest.raises(TooManyImages, match="^a body has 64 parts at most$"):
        take_apart(_part("image", b"x") * 65 + END, MULTIPART)


@pytest.mark.parametrize("body", [b"", END[:-4], END[:-4] + b"\r\n"])
def test_an_incomplete_multipart_body_is_a_bad_parameter(body: bytes) -> None:
    with pytest.raises(BadParameter, match="^the multipart body is incomplete$"):
        take_apart(_part("image", b"x") + body, MULTIPART)


@pytest.mark.parametrize(
    "body",
    [
        b"no boundary at all",
        b"--edge\r\n" + b"X: y\r\n" * 10000 + b"\r\nx\r\n" + END,
        b"--edge\r\nContent-Disposition: form-data; name="
        + b"n" * 100_000
        + b"\r\n\r\nx\r\n"
        + END,
        b"--edge\r\n\xff\xfe: \0\r\n\r\nx\r\n" + END,
    ],
)
def test_a_malformed_multipart_body_is_a_bad_parameter(body: bytes) -> None:
    with pytest.raises(BadParameter, match="^the multipart body is malformed$"):
        take_apart(body, MULTIPART)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "the multipart Content-Type names no boundary"),
        ("; boundary=", "the multipart Content-Type names no boundary"),
        ("; boundary=" + "x" * 1000, "the multipart body is malformed"),
    ],
)
def test_an_unusable_boundary_is_a_bad_parameter(options: str, message: str) -> None:
    headers = Headers({"Content-Type": f"multipart/form-data{options}"})
    with pytest.raises(BadParameter, match=f"^{message}$"):
        take_apart(b"--\r\n", headers)


def test_a_field_that_is_not_text_is_a_bad_parameter() -> None:
    with pytest.raises(BadParameter, match="^a form field is not UTF-8 text$"):
        take_apart(_part("image", b"x") + _part("top_k", b"\xff") + END, MULTIPART)
