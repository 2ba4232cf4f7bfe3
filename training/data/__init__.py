"""From DATA to training and validation images: read, scan, split, decode, augment."""
