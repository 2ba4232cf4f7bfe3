"""One line of JSON on stdout for each request, where LABRADOR_ACCESS_LOG=json asks for it.

Every value is a number or from a closed set, but for the trace ID, which is 32 hexadecimal digits:
a line never has a client's text.
"""

import json
import os
from datetime import UTC, datetime
from queue import SimpleQueue
from threading import Thread

from serving.observability.observation import Observation
from serving.observability.tracing import METHODS

_STDOUT = 1
_WAITING_MAX = 10_000  # lines; what reads stdout may hang, and requests go on


class AccessLog:
    """Writes from a thread of its own; each line by one call, so workers' lines do not mix."""

    def __init__(self, file: int = _STDOUT) -> None:
        """file: its descriptor."""
        self._file = file
        self._lost = 0
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = Thread(target=self._write, name="access-log", daemon=True)
        self._thread.start()

    def note(
        self,
        observed: Observation,
        method: str,
        endpoint: str,
        status: int,
        sent_bytes: int,
        elapsed_s: float,
        trace_id: str | None,
    ) -> None:
        """Write the line of a request that has just ended."""
        if self._lines.qsize() >= _WAITING_MAX:
            self._lost += 1
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry: dict[str, object] = {
            "time": now,
            "method": method if method in METHODS else "other",
            "endpoint": endpoint,
            "model": observed.model,
            "status": status,
            "code": observed.code,
            "received_bytes": observed.received_bytes,
            "sent_bytes": sent_bytes,
            "ms": {stage: _ms(seconds) for stage, seconds in list(observed.seconds.items())},
            "total_ms": _ms(elapsed_s),
            "trace_id": trace_id,
        }
        if self._lost:
            entry["lost_lines"], self._lost = self._lost, 0
        self._lines.put(json.dumps(entry, separators=(",", ":")).encode() + b"\n")

    def close(self, timeout_s: float = 1) -> None:
        """Write what waits, for at most `timeout_s`."""
        self._lines.put(None)
        self._thread.join(timeout_s)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                os.write(self._file, line)
            except OSError:  # nobody reads it any more
                self._lost += 1


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
