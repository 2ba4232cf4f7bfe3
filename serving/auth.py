"""API keys: who may ask, where the operator gave a list of keys."""

import hmac
from collections.abc import Iterable
from hashlib import sha256

from starlette.datastructures import Headers

from models.errors import Unauthorized


class Keys:
    """The keys of the operator's file; without any, everybody may ask."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._digests = [sha256(key).digest() for key in keys]

    def check(self, headers: Headers) -> None:
        """Raises Unauthorized unless the request bears one of the keys.

        Compares digests of equal length, all of them, so that the time tells nothing.
        """
        if not self._digests:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        digest = sha256(key.strip().encode("latin-1")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthorized("send the header Authorization: Bearer KEY with a valid key")
