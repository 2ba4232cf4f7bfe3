"""Azurite, Microsoft's emulator of Azure's object storage: `npm install --global azurite`."""

import base64
import hashlib
import hmac
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate

import httpx
import pytest

from testkit.object_storage import BUCKET
from testkit.servers import free_port

# of every emulator: learn.microsoft.com/azure/storage/common/storage-use-azurite
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_START_S = 60


@contextmanager
def azure_server() -> Iterator[dict[str, str]]:
    """A server with the container BUCKET; what a client of it finds in its environment."""
    if shutil.which("azurite-blob") is None:
        pytest.skip("azurite-blob is missing: npm install --global azurite")
    port = free_port()
    command = ["azurite-blob", "--silent", "--inMemoryPersistence", "--skipApiVersionCheck"]
    process = subprocess.Popen([*command, "--blobPort", str(port)], stdout=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
    try:
        end_s = time.monotonic() + _START_S
        while True:
            with suppress(httpx.TransportError):
                _create(endpoint)
                break
            assert process.poll() is None, f"Azurite ended with {process.returncode}"
            assert time.monotonic() < end_s, f"Azurite does not answer within {_START_S} s"
            time.sleep(0.1)
        yield {
            "AZURE_STORAGE_ENDPOINT": endpoint,
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        }
    finally:
        process.kill()
        process.wait()


def _create(endpoint: str) -> None:
    """The container, by a request signed as Azure asks for (Shared Key)."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    named = "".join(f"{name}:{value}\n" for name, value in headers.items())
    signed = "PUT" + 12 * "\n" + f"{named}/{ACCOUNT}/{ACCOUNT}/{BUCKET}\nrestype:container"
    digest = hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    made = httpx.put(f"{endpoint}/{BUCKET}?restype=container", headers=headers, verify=False)
    assert made.status_code == 201, made.text
