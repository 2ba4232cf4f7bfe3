"""Labrador inside a BentoML service of your own: bentoml serve examples.own_service:Captions

Labrador's workers start beside yours, in processes of their own, and answer yours only.
"""

from pathlib import Path

import bentoml

from serving.service import Labrador


@bentoml.service(name="captions")
class Captions:
    """One sentence an image."""

    labrador = bentoml.depends(Labrador)

    @bentoml.api  # type: ignore[untyped-decorator]
    async def caption(self, image: Path) -> str:
        answer = await self.labrador.to_async.classify(image=[image], top_k=1)
        (best,) = answer["predictions"]
        return f"This is probably {best['label']} ({best['probability']:.0%})."
