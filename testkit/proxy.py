"""A real nginx, configured by deploy/nginx, in front of real servers."""

import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from testkit.servers import ROOT, START_S, STOP_S, free_port

CONFIGURATION = ROOT / "deploy" / "nginx"


@dataclass(frozen=True)
class Proxy:
    url: str
    port: int
    trust: ssl.SSLContext
    log_file: Path

    def log(self) -> list[dict[str, str]]:
        """One entry per request, in the form of `log_format`."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]


def configure(folder: Path, servers: Sequence[int]) -> tuple[list[str], int]:
    """Configure nginx for servers at these ports; returns nginx's command and its own port."""
    configuration = folder / "nginx"
    shutil.copytree(CONFIGURATION, configuration)
    port = free_port()
    (configuration / "listen.conf").write_text(f"listen 127.0.0.1:{port} ssl;\n")
    list_file = configuration / "servers.conf"
    (options,) = set(re.findall(r"^server \S+ (.*;)$", list_file.read_text(), re.MULTILINE))
    list_file.write_text("".join(f"server 127.0.0.1:{server} {options}\n" for server in servers))
    (configuration / "tls").mkdir()
    certificate = ["openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    certificate += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    certificate += ["-addext", "subjectAltName=IP:127.0.0.1"]
    certificate += ["-keyout", str(configuration / "tls" / "key.pem")]
    certificate += ["-out", str(configuration / "tls" / "certificate.pem")]
    subprocess.run(certificate, check=True, capture_output=True)
    # its processes run as this user, because only this user may write to a test's folder
    script = ["nginx", "-p", str(folder), "-c", str(configuration / "nginx.conf")]
    return [*script, "-g", "daemon off; user root;"], port


@contextmanager
def proxy(folder: Path, servers: Sequence[int]) -> Iterator[Proxy]:
    """nginx in front of the service at these ports, with its files in `folder`."""
    script, port = configure(folder, servers)
    trust = ssl.create_default_context(cafile=folder / "nginx" / "tls" / "certificate.pem")
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(script, stdout=log, stderr=log)
    try:
        _wait_until_open(port, process)
        yield Proxy(f"https://127.0.0.1:{port}", port, trust, folder / "access.log")
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(STOP_S)


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise AssertionError("nginx did not start; nginx.log says why")
