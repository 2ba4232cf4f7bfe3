"""Everything that only a GPU can answer, in one go: `scripts/gpu`, and `scripts/gpu pack`."""
