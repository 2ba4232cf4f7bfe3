"""The training loop, its schedule, its checkpoints, and the validation after each epoch."""
