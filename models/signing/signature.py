"""Signatures of bundles, in the format of OpenSSF's model-signing, by plain elliptic-curve keys.

`model.sig` is a Sigstore bundle around a DSSE envelope around an in-toto statement that lists the
sha256 of every other file, so `model_signing verify key` accepts it, and `model_signing sign key`
makes one that is accepted here. The library itself is not used: it loads Sigstore, TUF and an HTTP
client (35 packages, 51 MB) also for plain keys, and hashes the files on disk, while this checks the
hashes of the very bytes that are then served.

Formats: https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md,
https://github.com/in-toto/attestation/blob/v1.1.0/spec/v1/statement.md,
https://github.com/sigstore/model-transparency (predicate https://model_signing/signature/v1.0).
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from models.errors import KeysError, SignatureError
from models.wording import installing

SIGNATURE_FILE = "model.sig"
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_NOT_OF_THE_FORMAT = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class Signer:
    """Signs with the private key in a PEM file."""

    def __init__(self, file: Path) -> None:
        """Raises KeysError, with one line, if the key cannot be used."""
        self._key = _keys().private_key(file)

    def sign(self, name: str, digests: Mapping[str, str]) -> bytes:
        """The content of `model.sig`. name: of the model; digests: path -> sha256 of each file."""
        resources = [
            {"name": file, "algorithm": "sha256", "digest": digest}
            for file, digest in sorted(digests.items())
        ]
        serialization = {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": [SIGNATURE_FILE],
        }
        statement = {
            "_type": _STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": _root(resources)}}],
            "predicateType": _PREDICATE_TYPE,
            "predicate": {"serialization": serialization, "resources": resources},
        }
        payload = json.dumps(statement).encode()
        signature = _keys().sign(self._key, _to_be_signed(payload))
        hint = _keys().fingerprint(self._key.public_key())
        whole = {
            "mediaType": _MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": _PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
            },
        }
        return json.dumps(whole).encode()


class Trust:
    """The public keys in a PEM file, or in every file of a folder."""

    def __init__(self, path: Path) -> None:
        """Raises KeysError, with one line, if there is none or one of them cannot be used."""
        self._path = path
        self._public_keys = _keys().public_keys(path)

    def check(self, signature: bytes | None, digests: Mapping[str, str], where: str) -> None:
        """Check that one of the keys has signed exactly these files: path -> sha256.

        signature: the content of `model.sig`, None if there is none. Raises SignatureError, with
        one line that begins with `where`.
        """
        if signature is None:
            raise SignatureError(f"{where} is not signed: it has no {SIGNATURE_FILE}")
        try:
            raw, payload = _opened(signature)
        except _NOT_OF_THE_FORMAT as error:
            raise SignatureError(f"{where}: {SIGNATURE_FILE} is not a signature") from error
        signed = _to_be_signed(payload)
        if not any(_keys().has_signed(key, raw, signed) for key in self._public_keys):
            raise SignatureError(
                f"{where}: {SIGNATURE_FILE} was changed, or is by none of the keys in {self._path}"
            )
        try:
            listed = _digests(json.loads(payload))
        except _NOT_OF_THE_FORMAT as error:
            raise SignatureError(
                f"{where}: {SIGNATURE_FILE} does not sign the sha256 of files"
            ) from error
        found = listed.items() ^ digests.items()
        if found:
            raise SignatureError(f"{where}: {min(found)[0]} is not what was signed")


def _keys() -> ModuleType:
    try:
        from models.signing import keys
    except ModuleNotFoundError as error:
        raise KeysError(
            f"signatures need cryptography, which is not installed: {installing('signing')}"
        ) from error
    return keys


def _opened(signature: bytes) -> tuple[bytes, bytes]:
    """The raw signature and what it signs. Raises one of _NOT_OF_THE_FORMAT."""
    whole = json.loads(signature)
    envelope = whole["dsseEnvelope"]
    if (whole["mediaType"], envelope["payloadType"]) != (_MEDIA_TYPE, _PAYLOAD_TYPE):
        raise ValueError
    (one,) = envelope["signatures"]
    return base64.b64decode(one["sig"], validate=True), base64.b64decode(
        envelope["payload"], validate=True
    )


def _digests(statement: dict[str, Any]) -> dict[str, str]:
    """Path -> sha256, of a statement about whole files. Raises one of _NOT_OF_THE_FORMAT."""
    predicate, (subject,) = statement["predicate"], statement["subject"]
    resources, method = predicate["resources"], predicate["serialization"]["method"]
    if (statement["_type"], statement["predicateType"]) != (_STATEMENT_TYPE, _PREDICATE_TYPE):
        raise ValueError
    if method != "files" or any(resource["algorithm"] != "sha256" for resource in resources):
        raise ValueError
    if subject["digest"]["sha256"] != _root(resources):
        raise ValueError
    return {resource["name"]: resource["digest"] for resource in resources}


def _root(resources: list[dict[str, str]]) -> str:
    """The digest of a whole model: sha256 over the digests of its files, one after the other."""
    return hashlib.sha256(b"".join(bytes.fromhex(r["digest"]) for r in resources)).hexdigest()


def _to_be_signed(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding of what is signed."""
    kind = _PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
