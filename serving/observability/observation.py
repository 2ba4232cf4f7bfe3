"""What is known about one request: the times that metrics, spans and the access log share."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from serving.observability.tracing import Trace

Stage = Literal["read", "decode", "queue", "infer", "respond"]


@dataclass(eq=False, slots=True)
class Observation:
    """One request so far. seconds: by stage; of several images their sum, though they overlap."""

    model: str = ""  # the name of a served model, never a client's text
    code: str = ""  # of the problem it is answered with
    received_bytes: int = 0  # of its body
    own_deadline: bool = False  # the client's X-Timeout-Ms is shorter than the service's limit
    seconds: dict[Stage, float] = field(default_factory=dict)
    trace: "Trace | None" = None

    def add(self, stage: Stage, start_s: float, end_s: float) -> None:
        """Note that a stage took from `start_s` to `end_s`, of `time.perf_counter`."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + end_s - start_s
        if self.trace is not None:
            self.trace.add(stage, start_s, end_s)
