"""The training loop, its schedule, its checkpoints, and what it is measured by after each epoch."""
