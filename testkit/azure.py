"""Azurite, Microsoft's emulator of Azure's object storage: `npm install --global azurite`."""

import base64
import hashlib
import hmac
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate

import httpx
import pytest

from testkit.object_storage import BUCKET
from testkit.servers import free_port
from testkit.waiting import until_it_answers

# of every emulator: learn.microsoft.com/azure/storage/common/storage-use-azurite
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


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
        until_it_answers("Azurite", process, lambda: _create(endpoint))
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
