"""API keys: who may send requests, if the operator has configured keys."""

import hmac
from collections.abc import Iterable
from hashlib import sha256

from starlette.datastructures import Headers

from models.errors import Unauthorized


class Keys:
    """The keys in the operator's file; without any, no key is required."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        self.replace(keys)

    def replace(self, keys: Iterable[bytes]) -> None:
        """From now on these are valid, and no others."""
        self._digests = [sha256(key).digest() for key in keys]

    def check(self, headers: Headers) -> None:
        """Raises Unauthorized unless the request has one of the keys.

        Compares the digests of all keys, in constant time, to leak nothing through timing.
        """
        if not self._digests:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        digest = sha256(key.strip().encode("latin-1")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthorized("send the header Authorization: Bearer KEY with a valid key")
