from pathlib import Path

import pytest

from serving.settings import SettingsError, read_api_keys, read_settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in os.environ:
        if name.startswith("LABRADOR_"):
            monkeypatch.delenv(name)


def test_defaults_are_those_of_the_product_page() -> None:
    settings = read_settings()
    assert (settings.max_body_mb, settings.max_megapixels, settings.device) == (10, 25, "auto")
    assert settings.models == ()
    assert settings.model_store.parts[-2:] == ("models", "bundles")


def test_variables_replace_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABRADOR_MODELS", "pets,voc:3")
    monkeypatch.setenv("LABRADOR_MAX_QUEUE", "100")
    settings = read_settings()
    assert settings.models == ("pets", "voc:3")
    assert settings.max_queue == 100


@pytest.mark.parametrize("name", ["LABRADOR_MAX_QUEU", "LABRADOR_PORT", "labrador_devices"])
def test_an_unknown_variable_is_refused_with_the_valid_ones(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=f"^{name} is no setting; .*LABRADOR_MAX_QUEUE"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DEVICE", "tpu", "LABRADOR_DEVICE=tpu: .*'auto', 'cuda' or 'cpu'"),
        ("MAX_MEGAPIXELS", "90", "LABRADOR_MAX_MEGAPIXELS=90: .*89"),
        ("MAX_QUEUE", "63", "LABRADOR_MAX_QUEUE=63: .*64"),
        ("TIMEOUT_S", "soon", "LABRADOR_TIMEOUT_S=soon: "),
        ("MODELS", "pets:1,pets:2", "LABRADOR_MODELS=.*: serve one version"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"LABRADOR_{name}", value)
    with pytest.raises(SettingsError, match=message) as refusal:
        read_settings()
    assert "\n" not in str(refusal.value)


def test_api_keys_are_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("first\n\n  second \n")
    assert read_api_keys(file) == (b"first", b"second")
    assert read_api_keys(None) == ()


def test_a_missing_or_empty_file_of_api_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read_api_keys(tmp_path / "none")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SettingsError, match="holds no key"):
        read_api_keys(tmp_path / "empty")
