"""The commands of `python -m models`, one per file: they look after a store, without torch."""
