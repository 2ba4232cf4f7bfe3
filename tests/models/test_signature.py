"""Signatures of bundles; OpenSSF's own model-signing is the reference."""

import base64
import datetime
import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from models import bundle
from models.bundle import sha256
from models.errors import BundleError, KeysError, SignatureError
from models.manifest import Manifest
from models.signing.signature import SIGNATURE_FILE, Signer, Trust
from models.store import Store
from testkit.bundles import FILES, manifest
from testkit.keys import key_pair


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A private key; its public one is beside it, as `key.pub`."""
    return key_pair(tmp_path / "key")


@pytest.fixture
def trust(private: Path) -> Path:
    return private.with_suffix(".pub")


@pytest.fixture
def store(tmp_path: Path, private: Path, trust: Path) -> Store:
    """Two signed versions of `pets`, which trusts their key."""
    found = Store(tmp_path / "store", trust)
    for number in (b"one", b"two"):
        files = FILES | {"model.onnx": number}

        def make(
            version: int, files: dict[str, bytes] = files
        ) -> tuple[Manifest, dict[str, bytes]]:
            return manifest(files, version=version), files

        found.add("pets", make, Signer(private))
    return found


def refused(store: Store, reference: str = "pets:2") -> str:
    with pytest.raises(SignatureError) as caught:
        store.read(reference)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(store.path(reference)))


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the JSON of the signature."""
    whole = json.loads((path / SIGNATURE_FILE).read_bytes())
    change(whole)
    (path / SIGNATURE_FILE).write_text(json.dumps(whole))


def test_a_signed_bundle_is_read(store: Store) -> None:
    assert store.read("pets:1").model == b"one"
    assert store.read("pets:2").model == b"two"


REFERENCE = """
import sys
from pathlib import Path
from model_signing import hashing, signing, verifying

for folder in map(Path, sys.argv[1:]):
    bundle, signature = folder / "pets", folder / "pets" / "model.sig"
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=folder / "key.pub")
    verifier.verify(bundle, signature)
    signature.unlink()
    signer = signing.Config().use_elliptic_key_signer(private_key=folder / "key")
    whole = hashing.Config().set_ignored_paths(paths=[signature])
    signer.set_hashing_config(whole).sign(bundle, signature)
"""


def test_model_signing_and_this_accept_each_others_signatures(tmp_path: Path) -> None:
    curves = [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()]
    folders = [tmp_path / curve.name for curve in curves]
    for folder, curve in zip(folders, curves, strict=True):
        folder.mkdir()
        signer = Signer(key_pair(folder / "key", curve))
        bundle.write(folder / "pets", manifest(), FILES, signer)
    run = [sys.executable, "-W", "ignore", "-c", REFERENCE, *map(str, folders)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for folder in folders:
        assert bundle.read(folder / "pets", Trust(folder / "key.pub")).files == FILES


def test_a_folder_trusts_each_of_its_keys(store: Store, trust: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    key_pair(keys / "other").unlink()
    (keys / "..data").symlink_to(keys)  # as Kubernetes mounts keys
    both = Store(store.root, keys)
    assert "is by none of the keys in" in refused(both)
    shutil.copy(trust, keys)
    assert both.read("pets:2").model == b"two"  # without a restart


# What is refused.


def test_a_missing_signature_is_refused(store: Store) -> None:
    (store.path("pets:2") / SIGNATURE_FILE).unlink()
    assert refused(store) == " is not signed: it has no model.sig"


def test_without_trusted_keys_no_signature_is_needed(store: Store) -> None:
    (store.path("pets:2") / SIGNATURE_FILE).write_bytes(b"anything")
    assert Store(store.root).read("pets:2").model == b"two"
    (store.path("pets:2") / SIGNATURE_FILE).unlink()
    assert Store(store.root).read("pets:2").model == b"two"


def test_another_key_is_refused(store: Store, tmp_path: Path) -> None:
    other = key_pair(tmp_path / "other").with_suffix(".pub")
    message = refused(Store(store.root, other))
    assert message == f": model.sig was changed, or is by none of the keys in {other}"


def test_a_flipped_bit_anywhere_is_refused(store: Store) -> None:
    path = store.path("pets:2")
    for file in [file for file in path.rglob("*") if file.is_file()]:
        whole = file.read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 1}:
            changed = bytearray(whole)
            changed[place] ^= 1
            file.write_bytes(changed)
            if file.name == SIGNATURE_FILE and _same_signature(whole, bytes(changed)):
                continue
            with pytest.raises(BundleError) as caught:
                store.read("pets:2")
            assert "\n" not in str(caught.value)
        file.write_bytes(whole)
    assert store.read("pets:2").model == b"two"


def _same_signature(first: bytes, second: bytes) -> bool:
    """Whether they differ in nothing but the hint at the key, or not at all."""
    try:
        return bool(
            json.loads(first)["dsseEnvelope"] == json.loads(second)["dsseEnvelope"]
            and json.loads(first)["mediaType"] == json.loads(second)["mediaType"]
        )
    except (ValueError, KeyError):
        return False


def test_another_manifest_with_hashes_that_fit_is_refused(store: Store, tmp_path: Path) -> None:
    """Whoever can write to the store can make a bundle that is whole, but not sign it."""
    path = store.path("pets:2")
    files = FILES | {"model.onnx": b"evil"}
    other = tmp_path / "other"
    bundle.write(other, manifest(files, version=2), files)
    for file in other.rglob("*"):
        if file.is_file():
            shutil.copy(file, path / file.relative_to(other))
    assert Store(store.root).read("pets:2").model == b"evil"
    assert refused(store) == ": manifest.json is not what was signed"


def test_a_file_beside_those_that_were_signed_is_refused(store: Store) -> None:
    (store.path("pets:2") / "more.txt").write_bytes(b"")
    with pytest.raises(BundleError, match=r"more.txt is not listed in manifest.json$"):
        store.read("pets:2")


def test_the_signature_of_another_version_is_refused(store: Store) -> None:
    shutil.copy(store.path("pets:1") / SIGNATURE_FILE, store.path("pets:2") / SIGNATURE_FILE)
    assert refused(store) == ": manifest.json is not what was signed"


@pytest.mark.parametrize("place", ["pets:2", "cats:1"])
def test_a_signed_bundle_in_the_place_of_another_is_refused(place: str, store: Store) -> None:
    name, _, version = place.partition(":")
    path = store.root / name / version
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(store.path("pets:1"), path)
    with pytest.raises(SignatureError) as caught:
        store.read(place)
    assert str(caught.value) == f"{path} is pets:1, and signed as that"
    assert Store(store.root).read(place).model == b"one"


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"mediaType": 1}', b"[" * 100_000, b'"text"'],
)
def test_what_is_no_signature_is_refused(content: bytes, store: Store) -> None:
    (store.path("pets:2") / SIGNATURE_FILE).write_bytes(content)
    assert refused(store) == ": model.sig is not a signature"


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: whole.update(mediaType="another"),
        lambda whole: whole["dsseEnvelope"].update(payloadType="another"),
        lambda whole: whole["dsseEnvelope"].update(signatures=[]),
        lambda whole: whole["dsseEnvelope"].update(payload="é"),
        lambda whole: whole["dsseEnvelope"]["signatures"][0].update(sig="="),
        lambda whole: whole["dsseEnvelope"].update(signatures=None),
    ],
)
def test_another_format_is_refused(change: Callable[[dict[str, Any]], None], store: Store) -> None:
    rewritten(store.path("pets:2"), change)
    assert refused(store) == ": model.sig is not a signature"


@pytest.mark.parametrize(
    "change",
    [
        lambda statement: statement.update(_type="another"),
        lambda statement: statement.update(predicateType="another"),
        lambda statement: statement["predicate"]["serialization"].update(method="shards"),
        lambda statement: statement["predicate"]["resources"][0].update(algorithm="blake2b"),
        lambda statement: statement["subject"][0]["digest"].update(sha256="0" * 64),
        lambda statement: statement["subject"].append(statement["subject"][0]),
        lambda statement: statement.pop("predicate"),
    ],
)
def test_a_trusted_key_may_sign_other_statements_but_not_for_this(
    change: Callable[[dict[str, Any]], None], store: Store, private: Path
) -> None:
    path = store.path("pets:2")

    def resign(whole: dict[str, Any]) -> None:
        statement = json.loads(base64.b64decode(whole["dsseEnvelope"]["payload"]))
        change(statement)
        payload = json.dumps(statement).encode()
        head = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload)
        key = serialization.load_pem_private_key(private.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        raw = key.sign(head + payload, ec.ECDSA(hashes.SHA256()))
        whole["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        whole["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(raw).decode()

    rewritten(path, resign)
    assert refused(store) == ": model.sig does not sign the sha256 of files"


def test_a_list_that_lacks_a_file_is_refused(store: Store, private: Path) -> None:
    path = store.path("pets:2")
    signed = {f.relative_to(path).as_posix(): f for f in path.rglob("*") if f.is_file()}
    del signed[SIGNATURE_FILE], signed["report.html"]
    digests = {name: sha256(file.read_bytes()) for name, file in signed.items()}
    (path / SIGNATURE_FILE).write_bytes(Signer(private).sign("pets:2", digests))
    assert refused(store) == ": report.html is not what was signed"


# Keys.

VALID = "use a PEM file with an elliptic-curve key, on P-256, P-384 or P-521"


def _pem(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    content: bytes = key.public_key().public_bytes(serialization.Encoding.PEM, form)
    return content


def _certificate() -> bytes:
    """One that has expired."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
    made = made.public_key(key.public_key()).not_valid_before(datetime.datetime(2020, 1, 1))
    made = made.not_valid_after(datetime.datetime(2021, 1, 1))
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _garbled() -> bytes:
    whole = _pem(ec.generate_private_key(ec.SECP256R1()))
    return whole[:40] + b"AAAA" + whole[44:]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (lambda: b"", "is not a public key"),
        (lambda: b"ssh-ed25519 AAAA", "is not a public key"),
        (_garbled, "is not a public key"),
        (_certificate, "is a certificate, not a public key"),
        (lambda: _pem(ed25519.Ed25519PrivateKey.generate()), "is a public key of another kind"),
        (lambda: _pem(rsa.generate_private_key(65537, 2048)), "is a public key of another kind"),
        (lambda: _pem(ec.generate_private_key(ec.SECP256K1())), "is a public key of another kind"),
    ],
)
@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_file_that_is_no_usable_public_key_is_refused(
    place: str, content: Callable[[], bytes], problem: str, tmp_path: Path, store: Store
) -> None:
    file = tmp_path / "trusted" / "team.pub"
    file.parent.mkdir()
    file.write_bytes(content())
    if place == "folder":  # beside one that is good: all of them must be
        shutil.copy(str(store.trust), file.parent)
    with pytest.raises(KeysError) as caught:
        Store(store.root, file if place == "file" else file.parent).read("pets:2")
    assert str(caught.value) == f"{file} {problem}: {VALID}"


def test_a_private_key_is_not_to_be_trusted(store: Store, private: Path) -> None:
    with pytest.raises(KeysError, match=r"key is a private key, not a public key: use a PEM file"):
        Store(store.root, private).read("pets:2")


def test_keys_that_are_not_there_are_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(KeysError, match="nowhere cannot be read: No such file or directory"):
        Store(store.root, tmp_path / "nowhere").read("pets:2")
    with pytest.raises(KeysError, match=f"empty has no public key: {VALID}"):
        Store(store.root, tmp_path / "empty").read("pets:2")
    with pytest.raises(KeysError, match="nowhere cannot be read: No such file or directory"):
        Signer(tmp_path / "nowhere")


@pytest.mark.parametrize("step", ["is_dir", "iterdir"])
def test_keys_in_a_folder_that_cannot_be_read_are_refused(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, step, refuses)
        with pytest.raises(KeysError, match=f"^{tmp_path} cannot be read: Permission denied$"):
            Trust(tmp_path)


def test_only_a_usable_private_key_signs(trust: Path, tmp_path: Path) -> None:
    with pytest.raises(KeysError, match=f"key.pub is not a private key: {VALID}"):
        Signer(trust)
    other = key_pair(tmp_path / "other", ec.SECP256K1())
    with pytest.raises(KeysError, match=f"other is a private key of another kind: {VALID}"):
        Signer(other)
    locked = key_pair(tmp_path / "locked", password=b"secret")
    with pytest.raises(KeysError, match="locked is encrypted with a password: decrypt it first"):
        Signer(locked)


def test_without_its_library_the_extra_is_named(
    trust: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "models.signing.keys")
    monkeypatch.delattr("models.signing.keys")
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(KeysError) as caught:
        Trust(trust)
    assert str(caught.value) == (
        "signatures need cryptography, which is not installed: pip install '.[signing]' in"
        " Labrador's checkout"
    )
