"""Memory and utilisation of the NVIDIA GPUs that this process can see, by NVIDIA's own library."""

import ctypes
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import Metric

log = logging.getLogger(__name__)

_LIBRARY = "libnvidia-ml.so.1"  # comes with the driver


class Gpus:
    """Reads them at a scrape; without a driver there is no metric."""

    def __init__(self) -> None:
        self._handles: list[Any] | None = None  # None: not looked for yet

    def families(self) -> "list[Metric]":
        """The metrics, with one series a GPU; a GPU that lacks a figure, as a MIG slice, has none.

        Blocks for milliseconds: call it in a thread.
        """
        if self._handles is None:
            self._handles = _find()
        if not self._handles:
            return []
        import pynvml
        from prometheus_client.core import GaugeMetricFamily

        def memory(handle: Any) -> Any:
            return pynvml.nvmlDeviceGetMemoryInfo(handle)

        figures: list[tuple[str, str, Callable[[Any], float]]] = [
            ("labrador_gpu_memory_bytes", "Memory of a GPU", lambda h: memory(h).total),
            (
                "labrador_gpu_memory_used_bytes",
                "Memory of a GPU that is in use, by any process",
                lambda h: memory(h).used,
            ),
            (
                "labrador_gpu_utilisation_ratio",
                "Share of the last sampling period, at most a second, in which a GPU computed",
                lambda h: pynvml.nvmlDeviceGetUtilizationRates(h).gpu / 100,
            ),
        ]
        families: list[Metric] = []
        for name, description, read in figures:
            family = GaugeMetricFamily(name, description, labels=["gpu"])
            for number, handle in enumerate(self._handles):
                try:
                    family.add_metric([str(number)], read(handle))
                except pynvml.NVMLError as error:
                    log.debug("%s of GPU %d: %s", name, number, error)
            families.append(family)
        return families


def _find() -> list[Any]:
    """A handle for each GPU; none without a driver."""
    try:
        ctypes.CDLL(_LIBRARY)  # so that a machine without it does not import pynvml
        import pynvml
    except (OSError, ImportError) as error:
        log.debug("no metrics of GPUs: %s", error)
        return []
    try:
        pynvml.nvmlInit()
        return [
            pynvml.nvmlDeviceGetHandleByIndex(number)
            for number in range(pynvml.nvmlDeviceGetCount())
        ]
    except pynvml.NVMLError as error:
        log.debug("no metrics of GPUs: %s", error)
        return []
