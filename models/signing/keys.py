"""Elliptic-curve keys in PEM files: what signs bundles, and whose signatures are trusted.

Needs cryptography, so it is imported only where keys are used.
"""

import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey as PrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey as PublicKey

from models.errors import KeysError

_HASH_BY_CURVE: dict[str, hashes.HashAlgorithm] = {  # as model-signing pairs them
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_VALID = "use a PEM file with an elliptic-curve key, on P-256, P-384 or P-521"


def private_key(file: Path) -> PrivateKey:
    """The key in `file`. Raises KeysError, with one line, if it cannot be used."""
    content = _content(file)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError as error:
        raise KeysError(f"{file} is encrypted with a password: decrypt it first") from error
    except Exception as error:
        raise KeysError(f"{file} is not a private key: {_VALID}") from error
    if not isinstance(key, PrivateKey) or key.curve.name not in _HASH_BY_CURVE:
        raise KeysError(f"{file} is a private key of another kind: {_VALID}")
    return key


def public_keys(path: Path) -> list[PublicKey]:
    """The key in the file `path`, or those in every file of a folder. Raises KeysError, with one
    line, if there is none or one of them cannot be used.

    Hidden files are left out: where Kubernetes mounts keys, they are its own.
    """
    try:
        found = list(path.iterdir()) if path.is_dir() else None
    except OSError as error:
        raise KeysError(f"{path} cannot be read: {error.strerror}") from error
    if found is None:
        return [_public_key(path)]
    files = sorted(file for file in found if not file.name.startswith("."))
    if not files:
        raise KeysError(f"{path} has no public key: {_VALID}")
    return [_public_key(file) for file in files]


def sign(key: PrivateKey, data: bytes) -> bytes:
    return key.sign(data, ECDSA(_HASH_BY_CURVE[key.curve.name]))


def has_signed(key: PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        key.verify(signature, data, ECDSA(_HASH_BY_CURVE[key.curve.name]))
    except InvalidSignature:
        return False
    return True


def fingerprint(key: PublicKey) -> str:
    """sha256 of the key's PEM, by which model-signing names it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.PEM, form)).hexdigest()


def _public_key(file: Path) -> PublicKey:
    content = _content(file)
    for kind in (b"PRIVATE KEY", b"CERTIFICATE"):
        if kind + b"-----" in content:
            raise KeysError(f"{file} is a {kind.decode().lower()}, not a public key: {_VALID}")
    try:
        key = serialization.load_pem_public_key(content)
    except Exception as error:
        raise KeysError(f"{file} is not a public key: {_VALID}") from error
    if not isinstance(key, PublicKey) or key.curve.name not in _HASH_BY_CURVE:
        raise KeysError(f"{file} is a public key of another kind: {_VALID}")
    return key


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise KeysError(f"{file} cannot be read: {error.strerror}") from error
