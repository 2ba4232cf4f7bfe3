from pathlib import Path

import pytest

from models.errors import RecipeError, RunError
from training.__main__ import main
from training.tracking import choice
from training.tracking.choice import Choice


def test_the_choice_of_a_run_is_read_back_and_without_one_there_is_no_file(tmp_path: Path) -> None:
    choice.write(tmp_path, Choice())
    assert not list(tmp_path.iterdir()) and choice.read(tmp_path) == Choice()
    chosen = Choice(tensorboard=True, mlflow="http://localhost:5000", mlflow_run="a1")
    choice.write(tmp_path, chosen)
    assert choice.read(tmp_path) == chosen
    (tmp_path / "tracking.json").write_text("{")
    with pytest.raises(RunError, match=r"tracking.json is corrupt: delete it"):
        choice.read(tmp_path)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_library_is_named_with_its_extra_before_the_data_is_read(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda wanted: None if wanted == name else object())
    options = {"tensorboard": ["--tensorboard"], "mlflow": ["--mlflow", "http://localhost:1"]}
    out = tmp_path / "run"
    assert main(["train", str(tmp_path), *options[name], "--weights", "none", "--out", str(out)])
    expected = (
        f"--{name} needs {name}, which is not installed: pip install '.[{name}]' in Labrador's"
        " checkout"
    )
    assert capsys.readouterr().err == f"error: {expected}\n"
    assert not out.exists()


def test_a_password_does_not_get_into_the_run() -> None:
    with pytest.raises(RecipeError, match="MLFLOW_TRACKING_USERNAME") as refused:
        choice.check(Choice(mlflow="https://me:secret@mlflow.example"))
    assert "secret" not in str(refused.value)
    choice.check(Choice(mlflow="https://mlflow.example/a@b"))
