"""Clients that disconnect: how much of their work reaches the model.

python -m benchmarks.leaving STORE NAME IMAGE [CLIENTS]

Serves the model NAME of STORE (a slow one, as `benchmarks.serving` leaves in WORK/resnet50), lets a
hundred clients send IMAGE at once and close their connections after a tenth of a second, and reads
from the service's metrics what became of their images.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from models.hardware import processor
from testkit.servers import Server, serve

_LEAVE_S = 0.1
_WITHIN_S = 60


async def leave(server: Server, name: str, image: bytes, clients: int) -> None:
    """Send, wait a moment, and disconnect."""
    head = (
        f"POST /classify?model={name} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {len(image)}\r\n\r\n"
    )

    async def client() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head.encode() + image)
        await writer.drain()
        await asyncio.sleep(_LEAVE_S)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))


def main(store: Path, name: str, file: Path, clients: int) -> None:
    print(f"{processor()}\n")
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(Path(folder), model_store=store, models=name) as server,
    ):
        asyncio.run(leave(server, name, file.read_bytes(), clients))
        left = f'labrador_requests_total{{code="499",endpoint="classify",model="{name}"}}'
        end_s = time.monotonic() + _WITHIN_S
        while server.metric("labrador_queue_images") or server.metric(left) < clients:
            if time.monotonic() > end_s:
                break
            time.sleep(0.1)
        ran = server.metric("labrador_batch_size_sum")
        dropped = server.metric('labrador_dropped_total{reason="disconnected"}')
        print(
            f"{clients} clients disconnected after {_LEAVE_S} s, {server.metric(left):.0f} counted"
            f" as such; {ran:.0f} of their images reached the model, {dropped:.0f} were dropped"
            " before it"
        )


if __name__ == "__main__":
    main(
        Path(sys.argv[1]).absolute(),
        sys.argv[2],
        Path(sys.argv[3]),
        int(sys.argv[4]) if len(sys.argv) > 4 else 100,
    )
