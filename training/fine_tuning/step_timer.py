"""Which stage of a training step limits its speed: image loading, augmentation or network."""

import time

import torch

_EVERY = 16  # on a GPU only every 16th step is timed: timing must wait for the GPU


class Stages:
    """The seconds that the timed steps spent in each stage."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._steps = 0
        self._at = time.perf_counter()

    def begin(self) -> None:
        """Begin a step; the first one is not timed."""
        self._steps += 1
        if self._timed:
            self._wait()
            self._at = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to `stage`."""
        if self._timed:
            self._wait()
            now = time.perf_counter()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._at
            self._at = now

    def verdict(self) -> str:
        """The slowest stage, and each one's share of the time, in words."""
        total = sum(self.seconds.values())
        if not total:
            return "too few steps to tell what limits the speed"
        shares = sorted(((s / total, name) for name, s in self.seconds.items()), reverse=True)
        listed = ", ".join(f"{name} {share:.0%}" for share, name in shares)
        return f"the speed is limited by {shares[0][1]} ({listed} of the time)"

    @property
    def _timed(self) -> bool:
        return self._steps > 1 and (self._device.type != "cuda" or self._steps % _EVERY == 2)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
