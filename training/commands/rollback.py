"""`rollback`: that of `python -m models`."""

from models.commands.rollback import rollback

__all__ = ["rollback"]
