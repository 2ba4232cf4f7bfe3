"""The audit of DATA before training: what is wrong with it, and what is notable."""
