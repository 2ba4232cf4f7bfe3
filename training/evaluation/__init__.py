"""How good a run or a bundle is on images: scores, metrics, calibration, mistakes."""
