"""Whether a candidate may replace the released version."""

from models.errors import ReleaseError

MARGIN = 0.01  # how much worse error, or 1 - mAP, may be with 95 % confidence, as a share


def is_margin(margin: float) -> bool:
    return 0 < margin < 0.5


def check_margin(margin: float) -> None:
    """Raises ReleaseError unless the margin is a share above 0 and below 0.5."""
    if not is_margin(margin):
        raise ReleaseError(
            f"--margin {margin}: use a share above 0 and below 0.5; 0.01 is one point"
        )
