"""A BentoML service that asks Labrador, for the tests of `bentoml.depends`."""

from pathlib import Path
from typing import Any

import bentoml

from serving.service import Labrador


@bentoml.service(name="outer")
class Outer:
    labrador = bentoml.depends(Labrador)

    @bentoml.api  # type: ignore[untyped-decorator]
    def classify(
        self,
        image: list[Path],
        top_k: int | None = None,
        alpha: float | None = None,
        coverage: float | None = None,
    ) -> dict[str, Any]:
        answer: dict[str, Any] = self.labrador.classify(
            image, top_k=top_k, alpha=alpha, coverage=coverage
        )
        return answer

    @bentoml.api  # type: ignore[untyped-decorator]
    async def tag(self, image: list[Path], threshold: float | None = None) -> dict[str, Any]:
        asking = self.labrador.to_async
        answer: dict[str, Any] = await asking.tag(image=image, threshold=threshold, model="tags")
        return answer
