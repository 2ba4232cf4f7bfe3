"""The image that `scripts/container` built, run as an engine would run it: as its own user without
capabilities, as process 1, on a read-only root with a tmpfs at /tmp.

Not covered is what an engine adds: cgroups, a seccomp filter and its own network.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from models.store import Store
from testkit import tiny_models
from testkit.servers import ROOT, STOP_S, Server, free_port, wait

NAME = os.environ.get("IMAGE", "")
DEVICE = NAME.rpartition(":")[2]
if not NAME:  # also with --all, as building it takes minutes
    pytest.skip("no image: scripts/container builds one and runs this", allow_module_level=True)
# arguments: root, store, how it is mounted (ro or rw), user, then those of `env`
ENGINE = """
mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"
mount -t tmpfs tmpfs "$1/tmp"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount --bind "$2" "$1/models"; mount -o "remount,bind,$3" "$1/models"
exec chroot --groups= --userspec="$4" "$1" env -i "${@:5}"
"""


@dataclass(frozen=True)
class Image:
    root: Path
    config: dict[str, Any]  # as `docker inspect` has it

    def start(self, store: Path, mode: str, user: str, *words: str) -> list[str]:
        """The command of a container with the store mounted for reading (ro) or writing (rw).

        words: the arguments of `env`, which start its process 1.
        """
        (self.root / "models").mkdir(exist_ok=True)  # the engine's job: the mount point, and hosts
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        alone = ["unshare", "--mount", "--pid", "--fork"]
        engine = ["bash", "-euc", ENGINE, "engine", str(self.root), str(store), mode, user]
        return [*alone, *engine, *words]

    def setting(self, **variables: object) -> list[str]:
        """Working directory and environment, for `env`."""
        more = {"LABRADOR_MODEL_STORE": "/models", **variables}
        given = [f"{name}={value}" for name, value in more.items()]
        return ["-C", self.config["WorkingDir"], *self.config["Env"], *given]


@dataclass(frozen=True)
class Container:
    server: Server
    user: str
    setting: list[str]  # working directory and environment, for `env`

    @property
    def pid(self) -> int:
        """The pid of its process 1, seen from outside."""
        return self.server.worker()

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        user, group = self.user.split(":")
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--root"]
        as_user = [f"--setuid={user}", f"--setgid={group}", "env", "-i", *self.setting]
        return subprocess.run([*enter, *as_user, *command], capture_output=True, text=True)

    def status(self, name: str) -> str:
        """One line of /proc/PID/status."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return text.partition(f"\n{name}:")[2].partition("\n")[0].strip()

    def children(self) -> set[str]:
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return {pid for t in threads for pid in (t / "children").read_text().split()}


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    config = json.loads(output_of("buildah", "inspect", "--type", "image", NAME))["Docker"][
        "config"
    ]
    container = output_of("buildah", "from", NAME)
    try:
        yield Image(Path(output_of("buildah", "mount", container)), config)
    finally:
        output_of("buildah", "rm", container)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    tiny_models.add(folder, "colours", "single")
    folder.chmod(0o755)  # pytest makes it private
    return folder


@contextmanager
def running(
    image: Image,
    folder: Path,
    store: Path,
    user: str | None = None,
    probe: str = "readyz",
    **variables: object,
) -> Iterator[Container]:
    """The image running with this store, once the probe answers 200."""
    user, port = user or image.config["User"], free_port()
    setting = image.setting(BENTOML_PORT=port, **variables)
    log_file = folder / "container.log"
    command = image.start(store, "ro", user, *setting, *image.config["Entrypoint"])
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    # not 127.0.0.1: a server listening only there cannot be reached from outside a container
    server = Server(f"http://127.0.0.2:{port}", port, process, log_file)
    try:
        wait(server, probe)
        yield Container(server, user, setting)
    finally:
        if process.poll() is None:
            # --kill-child has no effect once the child has changed its user
            for pid in server.workers():
                os.kill(pid, signal.SIGKILL)
        process.wait(STOP_S)


def health(image: Image, container: Container) -> int:
    """Exit code of the image's own health check."""
    kind, *command = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    return container.run(*command).returncode


def test_it_serves_a_mounted_store_without_privileges(
    image: Image, store: Path, tmp_path: Path
) -> None:
    with running(image, tmp_path, store) as container:
        answer = httpx.post(f"{container.server.url}/classify", content=tiny_models.picture())
        assert answer.status_code == 200
        assert answer.json()["predictions"][0]["label"] == "red"
        assert health(image, container) == 0

        assert container.status("Uid").split() == [image.config["User"].partition(":")[0]] * 4
        assert int(container.status("Uid").split()[0]) > 0
        assert container.status("NSpid").split()[-1] == "1"
        assert int(container.status("CapEff"), 16) == 0
        for folder in ("/", "/bento", "/venv", "/models"):
            assert "Read-only" in container.run("touch", f"{folder}/file").stderr
        assert container.run("find", "/tmp", "-type", "f").stdout == ""


def test_sigterm_drains_and_ends_it_with_exit_code_0(
    image: Image, store: Path, tmp_path: Path
) -> None:
    with running(image, tmp_path, store) as container:
        start_s = time.monotonic()
        os.kill(container.pid, signal.SIGTERM)
        while httpx.get(f"{container.server.url}/readyz").status_code == 200:
            assert time.monotonic() - start_s < STOP_S
            time.sleep(0.1)
        answer = httpx.post(f"{container.server.url}/classify", content=tiny_models.picture())
        assert answer.status_code == 200
        assert health(image, container) == 1
        assert container.server.process.wait(STOP_S) == 0
        assert time.monotonic() - start_s >= 5  # LABRADOR_DRAIN_S's default


def test_it_is_unhealthy_without_a_model_or_a_server(image: Image, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with running(image, tmp_path, tmp_path / "empty", probe="livez") as container:
        assert httpx.get(f"{container.server.url}/readyz").status_code == 503
        assert health(image, container) == 1
        container.setting.append(f"BENTOML_PORT={free_port()}")
        assert health(image, container) == 1


def test_any_user_can_run_it_and_a_killed_worker_comes_back(
    image: Image, store: Path, tmp_path: Path
) -> None:
    with running(image, tmp_path, store, user="54321:54321") as container:
        before = container.children()
        for child in before:
            os.kill(int(child), signal.SIGKILL)
        end_s = time.monotonic() + STOP_S
        while not container.children() - before:
            assert time.monotonic() < end_s, container.server.log()
            time.sleep(0.1)
        wait(container.server, "readyz")


def test_a_bad_release_is_found_and_rolled_back_with_the_image_alone(
    image: Image, tmp_path: Path
) -> None:
    """As at night: look inside a running container, roll back in the Job, which may write."""
    folder = tmp_path / "store"
    before = os.umask(0o077)  # whoever released kept their files private
    try:
        for _ in range(2):
            tiny_models.add(folder, "colours", "single")
    finally:
        os.umask(before)
    Store(folder).release("colours", 2)
    user, group = map(int, image.config["User"].split(":"))
    os.chown(folder / "colours", user, group)  # the Job's user may release; it owns no bundle
    manifest = yaml.safe_load((ROOT / "deploy/kubernetes/rollback/job.yaml").read_text())
    (job,) = manifest["spec"]["template"]["spec"]["containers"]
    values = {"MODEL_NAME": "colours", "--to=MODEL_VERSION": "--to=1"}
    rollback = [*job["command"], *(values.get(word, word) for word in job["args"])]

    with running(image, tmp_path, folder, LABRADOR_RELOAD_S="0.5") as container:
        models = ("python", "-m", "models")
        listed = container.run(*models, "list")
        assert (listed.returncode, listed.stderr) == (0, "")
        assert listed.stdout.startswith("colours: version 2 is released since ")
        verified = container.run(*models, "verify")
        assert (verified.returncode, verified.stderr) == (0, "")
        assert [line.split(": ")[0] for line in verified.stdout.splitlines()] == [
            "colours:1",
            "colours:2",
        ]
        refused = container.run(*rollback)  # the store is mounted for reading
        assert refused.returncode == 1 and "Read-only file system" in refused.stderr
        assert version_of(container) == "2"

        command = image.start(folder, "rw", container.user, *image.setting(), *rollback)
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "version 1 of colours is released, in place of version 2\n"
        end_s = time.monotonic() + STOP_S
        while version_of(container) != "1":
            assert time.monotonic() < end_s, container.server.log()
            time.sleep(0.1)


def version_of(container: Container) -> str:
    """Which version answers."""
    answer = httpx.post(f"{container.server.url}/classify", content=tiny_models.picture())
    return str(answer.json()["model"]["version"])


def test_its_user_can_change_nothing_in_it(image: Image) -> None:
    writable = {"tmp", "var/tmp", "run/lock"}
    own, found = int(image.config["User"].partition(":")[0]), set()
    for folder, folders, files in os.walk(image.root):
        for path in (Path(folder) / name for name in (*folders, *files)):
            entry = path.lstat()
            changeable = entry.st_uid == own or entry.st_gid == own or entry.st_mode & 0o002
            if changeable and not path.is_symlink():
                found.add(str(path.relative_to(image.root)))
    assert found - writable == set()


def test_no_compiler_no_git_no_torch_and_no_caches_are_in_it(image: Image) -> None:
    folders = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "venv/bin")
    programs = {file.name for folder in folders for file in (image.root / folder).iterdir()}
    assert "bentoml" in programs
    pattern = r"(.*-)?(gcc|g\+\+|cc|c\+\+|clang|ld|as|make|cmake|git|curl|wget)(-[\d.]+)?"
    assert [name for name in programs if re.fullmatch(pattern, name)] == []
    (packages,) = image.root.glob("venv/lib/python*/site-packages")
    present = {entry.name for entry in packages.iterdir()}
    assert "bentoml" in present and not present & {"torch", "torchvision", "pip", "setuptools"}
    for cache in ("root/.cache", "tmp", "var/tmp", "var/cache/apt", "var/lib/apt/lists"):
        assert list((image.root / cache).glob("**/*.*")) == []
    assert [file for file in image.root.glob("bento/src/**/*.py") if not compiled(file)] == []


def compiled(file: Path) -> bool:
    return any((file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"))


def test_what_is_listed_accounts_for_every_binary_and_every_module_in_it(image: Image) -> None:
    bill = json.loads((ROOT / "dist" / f"sbom-{DEVICE}.json").read_text())
    image_id = output_of("buildah", "inspect", "--type=image", "--format={{.FromImageID}}", NAME)
    assert [each["content"] for each in bill["metadata"]["component"]["hashes"]] == [image_id]
    purls = [PackageURL.from_string(part["purl"]) for part in bill["components"] if "purl" in part]
    base = image.config["Labels"]["org.opencontainers.image.base.name"]
    assert [part["name"] for part in bill["components"] if part["bom-ref"] == "base"] == [
        base.partition("@")[0]
    ]
    accounted = {file for purl in purls for file in files_of(purl, image.root)}
    ours = ["bento/src"] + ["usr/local"] * any(purl.type == "generic" for purl in purls)
    found = set()
    for folder, _, files in os.walk(image.root):
        for path in (Path(folder, name) for name in files):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    binary = file.read(4) == b"\x7fELF"
                if binary or path.suffix == ".py":
                    found.add(str(path.relative_to(image.root)))
    assert len(found) > 3000  # it looked at the right place
    assert {f for f in found - accounted if not f.startswith(tuple(ours))} == set()


def files_of(package: PackageURL, root: Path) -> Iterator[str]:
    """The files of a listed package, relative to the root, as dpkg or pip noted them."""
    if package.type == "deb":
        infos = root / "var/lib/dpkg/info"
        for listed in (infos / f"{package.name}.list", *infos.glob(f"{package.name}:*.list")):
            if listed.is_file():
                for line in listed.read_text().splitlines():  # /lib is a link to /usr/lib
                    yield re.sub(r"^/(bin|sbin|lib\w*)/", r"/usr/\1/", line).removeprefix("/")
    elif package.type == "pypi":
        for info in root.glob("venv/lib/python*/site-packages/*.dist-info"):
            name, _, version = info.stem.rpartition("-")
            if (canonicalize_name(name), version) == (package.name, package.version):
                for line in (info / "RECORD").read_text().splitlines():
                    path = os.path.normpath(
                        info.parent / line.rpartition(",")[0].rpartition(",")[0]
                    )
                    yield os.path.relpath(path, root)


def test_its_configuration_names_no_builder(image: Image) -> None:
    found = json.loads(output_of("buildah", "inspect", "--type=image", NAME))
    assert "container" not in json.loads(found["Config"])
    assert image.config["Hostname"] == ""
    revision = image.config["Labels"]["org.opencontainers.image.revision"]
    bento = yaml.safe_load((image.root / "bento/bento.yaml").read_text())
    assert bento["version"] == revision
    made, built = bento["creation_time"], found["Docker"]["created"]
    assert datetime.fromisoformat(made) == datetime.fromisoformat(built)


def test_the_device_it_was_built_for_decides_what_is_in_it(
    image: Image, store: Path, tmp_path: Path
) -> None:
    (packages,) = image.root.glob("venv/lib/python*/site-packages")
    names = {entry.name.partition("-")[0] for entry in packages.glob("*.dist-info")}
    cuda = {name for name in names if re.match(r"nvidia_(cu|nv)|onnxruntime_gpu", name)}
    loads = (
        "import ctypes, onnxruntime\n"
        "folder = onnxruntime.__path__[0] + '/capi/libonnxruntime_providers_'\n"
        "onnxruntime.preload_dlls()\n"
        "ctypes.CDLL(folder + 'shared.so', ctypes.RTLD_GLOBAL)\n"
        "ctypes.CDLL(folder + 'cuda.so')\n"
    )
    with running(image, tmp_path, store) as container:
        done = container.run("python", "-c", loads)
    if DEVICE == "cpu":
        assert cuda == set() and "onnxruntime" in names
        assert "cuda.so: cannot open" in done.stderr
    else:
        assert cuda > {"onnxruntime_gpu"} and "onnxruntime" not in names
        # all but the driver, which the engine takes from the host
        assert done.returncode == 0 or "libcuda.so.1: cannot open" in done.stderr
        assert "Failed to load" not in done.stdout
