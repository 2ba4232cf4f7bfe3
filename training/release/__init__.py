"""Whether a candidate may take the released version's place."""

from models.errors import ReleaseError

MARGIN = 0.01  # share by which error, or 1 - mAP, may be worse with 95 % confidence


def is_margin(margin: float) -> bool:
    return 0 < margin < 0.5


def check_margin(margin: float) -> None:
    """ReleaseError if it is no share that a model may be worse by."""
    if not is_margin(margin):
        raise ReleaseError(
            f"--margin {margin}: use a share above 0 and below 0.5; 0.01 is one point"
        )
