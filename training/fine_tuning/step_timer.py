"""Which stage of a training step bounds its speed: pictures, augmentation or network."""

import time

import torch

_EVERY = 16  # on a GPU only each 16th step is timed: a look at the clock must wait for the GPU


class Stages:
    """Seconds that the timed steps spent in each stage."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._steps = 0
        self._at = time.perf_counter()

    def begin(self) -> None:
        """A step begins; the first one after a pause is not timed."""
        self._steps += 1
        if self._timed:
            self._wait()
            self._at = time.perf_counter()

    def lap(self, stage: str) -> None:
        """What ran since the last lap was `stage`."""
        if self._timed:
            self._wait()
            now = time.perf_counter()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._at
            self._at = now

    def verdict(self) -> str:
        """The slowest stage and each stage's share, as in `bound by the network (network 91 %…`."""
        total = sum(self.seconds.values())
        if not total:
            return "too few steps to tell what bounds the speed"
        shares = sorted(((s / total, name) for name, s in self.seconds.items()), reverse=True)
        listed = ", ".join(f"{name} {share:.0%}" for share, name in shares)
        return f"the speed is bound by {shares[0][1]} ({listed} of the time)"

    @property
    def _timed(self) -> bool:
        return self._steps > 1 and (self._device.type != "cuda" or self._steps % _EVERY == 2)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
