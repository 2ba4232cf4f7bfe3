"""What the machine does to a server at night: its disk is full, its clock jumps."""

import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

from benchmarks import swap
from testkit import small_disk, tiny_models
from testkit.servers import get, post, serve, wait
from testkit.waiting import until

_MIB = 2**20


def test_with_a_full_temporary_folder_it_serves_swaps_and_restarts_its_worker(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    store = swap.fill(tmp_path / "store")
    inside = small_disk.in_place_of(folder, "4m")
    with serve(folder, inside=inside, model_store=store.root, reload_s=0.05) as server:
        seen = Path(f"/proc/{server.process.pid}/root/{folder}")
        assert shutil.disk_usage(seen).total == 4 * _MIB
        filler = os.open(seen / "filler", os.O_WRONLY | os.O_CREAT)
        with suppress(OSError):
            while True:
                os.write(filler, bytes(4096))
        os.close(filler)
        assert shutil.disk_usage(seen).free == 0

        tally = swap.measure(server.url, store, swaps=2)
        assert tally.failures == []
        assert post(f"{server.url}/classify", content=b"no image").status_code == 422
        os.kill(server.worker(), signal.SIGKILL)
        wait(server, "readyz")
        answer = post(f"{server.url}/classify", content=tiny_models.picture())
        assert answer.status_code == 200
        assert get(f"{server.url}/metrics").status_code == 200


def test_it_serves_and_swaps_while_the_clock_jumps_by_days(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, time\n"
        "true_time = time.time\n"
        f"offset = pathlib.Path({str(clock)!r})\n"
        "time.time = lambda: true_time() + 86_400 * len(offset.read_bytes())\n"
    )
    clock.touch()
    store = swap.fill(tmp_path / "store")
    ended = threading.Event()

    def jump() -> None:
        while not ended.wait(0.01):
            clock.write_bytes(bytes(2 - clock.stat().st_size))  # two days ahead, and back

    inside = ["env", f"PYTHONPATH={tmp_path}"]
    with serve(tmp_path, inside=inside, model_store=store.root, reload_s=0.05) as server:
        jumping = threading.Thread(target=jump)
        jumping.start()
        try:
            tally = swap.measure(server.url, store, swaps=3)
            clock.write_bytes(bytes(2))
        finally:
            ended.set()
            jumping.join()
        clock.write_bytes(bytes(365))
        in_300_days = time.time() + 300 * 86_400
        until(lambda: server.metric("labrador_store_seen_timestamp_seconds") > in_300_days)
        assert tally.failures == []
        assert tally.swaps == 3
        # No duration is taken from that clock.
        assert 0 < server.metric("labrador_request_seconds_sum") < 3_600
