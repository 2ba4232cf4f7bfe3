"""From DATA to what is trained on and measured on: read, scan, split, decode, augment."""
