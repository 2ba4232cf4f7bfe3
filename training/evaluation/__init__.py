"""Evaluation of a run or a bundle on images: scores, metrics, calibration, mistakes."""
