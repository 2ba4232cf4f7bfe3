"""Folders of captured images, as the service keeps them, without a server."""

from pathlib import Path

from models.bundle import sha256
from models.captured import MARKER_FILE, Captured
from models.manifest import Task
from testkit.image_sets import image


def capture(
    folder: Path,
    *answers: dict[str, float],
    task: Task = "single",
    labels: list[tuple[str, ...]] | None = None,
    model: str = "pets",
) -> list[str]:
    """Images with these scores, as the service keeps them; the names of their files."""
    (folder / model).mkdir(parents=True, exist_ok=True)
    (folder / model / MARKER_FILE).write_text("what it is")
    files = []
    for number, scores in enumerate(answers):
        data = image(100 + number)
        found = Captured(
            sha256=sha256(data),
            file=f"{sha256(data)}.jpg",
            time="2026-01-01T00:00:00+00:00",
            why=("unsure", "random"),
            model=model,
            version=1,
            task=task,
            labels=labels[number] if labels else (max(scores, key=lambda n: scores[n]),),
            scores=scores,
        )
        (folder / model / found.file).write_bytes(data)
        (folder / model / f"{found.sha256}.json").write_text(found.model_dump_json())
        files.append(found.file)
    return files
