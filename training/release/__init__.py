"""Whether a candidate may take the released version's place."""

MARGIN = 0.01  # share by which error, or 1 - mAP, may be worse with 95 % confidence


def is_margin(margin: float) -> bool:
    return 0 < margin < 0.5
