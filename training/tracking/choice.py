"""Which trackers a run has: `tracking.json`, so that a resumed run continues with the same."""

from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from models.bundle import write_atomically
from models.errors import RecipeError, RunError
from models.manifest import Frozen
from models.wording import installing
from training.run_folder import TRACKING_FILE


class Choice(Frozen):
    """mlflow: the URI of its server; mlflow_run: the id of the run there, once there is one."""

    tensorboard: bool = False
    mlflow: str | None = None
    mlflow_run: str | None = None


def check(choice: Choice) -> None:
    """RunError for a library that is not installed, RecipeError for a URI with a password."""
    for wanted, name in ((choice.tensorboard, "tensorboard"), (choice.mlflow, "mlflow")):
        if wanted and find_spec(name) is None:
            raise RunError(f"--{name} needs {name}, which is not installed: {installing(name)}")
    if choice.mlflow is not None and "@" in urlsplit(choice.mlflow).netloc:
        raise RecipeError(
            "--mlflow: the URI is kept in the run, so give user and password as"
            " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )


def read(path: Path) -> Choice:
    """The trackers of the run in `path`; none if it does not say. RunError if that is corrupt."""
    file = path / TRACKING_FILE
    try:
        return Choice.model_validate_json(file.read_bytes()) if file.exists() else Choice()
    except (OSError, ValidationError) as error:
        raise RunError(f"{file} is corrupt: delete it to go on without trackers") from error


def write(path: Path, choice: Choice) -> None:
    if choice != Choice():
        write_atomically(path / TRACKING_FILE, choice.model_dump_json(indent=2).encode())
