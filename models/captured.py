"""An image that the service kept, and what it answered: serving writes it, training reads it.

NAME/CAPTURED       marks the folder as one of images that the model NAME was asked about
NAME/<sha256>.json  the answer, written first
NAME/<sha256>.jpg   the image (or .png, .webp), without its metadata; an answer alone is void

sha256 is that of the bytes as they were sent.
"""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from models.errors import DataError
from models.manifest import Frozen, Name, Probability, Sha256, Task, first_problem

MARKER_FILE = "CAPTURED"
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WebP": ".webp"}  # by the formats that are served
Why = Literal["unknown", "unsure", "random"]
_ANSWER = re.compile(r"[0-9a-f]{64}\.json")


class Captured(Frozen):
    """`<sha256>.json`. Nothing in it is about the client."""

    sha256: Sha256 = Field(description="of the bytes as sent")
    file: str = Field(description="the image, in the same folder")
    time: str = Field(description="UTC, ISO 8601, in seconds")
    why: tuple[Why, ...] = Field(min_length=1, description="why it was kept")
    model: Name
    version: int = Field(ge=1)
    task: Task
    labels: tuple[str, ...] = Field(description="the answer: one label, or the tags; a guess")
    scores: dict[str, Probability] = Field(
        description="of the likeliest labels and all tags, likeliest first"
    )

    @model_validator(mode="after")
    def _is_named_by_its_hash(self) -> Self:
        if self.file not in [self.sha256 + suffix for suffix in SUFFIXES.values()]:
            raise ValueError(f"file={self.file!r:.80} is not named by its sha256")
        return self


def is_answer(name: str) -> bool:
    """Whether a file is named as an answer is."""
    return _ANSWER.fullmatch(name) is not None


def answer_file(sha256: str) -> str:
    return f"{sha256}.json"


def read(file: Path) -> Captured:
    """The answer in a file, which must have its name. Raises DataError, and OSError if it is gone.

    So what another program wrote is never taken for one.
    """
    try:
        found = Captured.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"{file} is not an answer of the service: {first_problem(error)}"
        ) from error
    if file.name != answer_file(found.sha256):
        raise DataError(f"{file} is not an answer of the service: it has another one's sha256")
    return found
