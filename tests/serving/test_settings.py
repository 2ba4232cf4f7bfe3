from pathlib import Path

import pytest
from pydantic import ValidationError

from models.preprocess import MEGAPIXELS_MAX
from serving.settings import Settings, SettingsError, read_api_keys, read_settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in os.environ:
        if name.startswith("LABRADOR_"):
            monkeypatch.delenv(name)


def test_defaults_are_as_documented_and_each_setting_is_described() -> None:
    assert read_settings().model_dump() == {
        "models": (),
        "model_store": Path(__file__).parents[2] / "models" / "bundles",
        "device": "auto",
        "precision": "auto",
        "gpu_memory_mb": 0,
        "cores": 0,
        "reload_s": 0,
        "wait_for_models": False,
        "require_all_models": False,
        "store_timeout_s": 10,
        "max_body_mb": 10,
        "max_bodies_mb": 256,
        "max_megapixels": 25,
        "max_queue": 256,
        "max_batch": 0,
        "timeout_s": 30,
        "read_timeout_s": 10,
        "drain_s": 5,
        "api_keys_file": None,
        "page": True,
        "capture": None,
        "capture_share": 0.01,
        "capture_images_per_h": 60,
        "capture_max_mb": 1000,
        "capture_days": 30,
    }
    assert all(field.description for field in Settings.model_fields.values())


def test_settings_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read_settings().max_queue = 1000  # type: ignore[misc]


def test_variables_replace_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABRADOR_MODELS", "pets,voc:3,shapes")
    monkeypatch.setenv("LABRADOR_MAX_QUEUE", "100")
    monkeypatch.setenv("LABRADOR_PAGE", "off")
    settings = read_settings()
    assert settings.models == ("pets", "voc:3", "shapes")
    assert settings.max_queue == 100
    assert not settings.page


@pytest.mark.parametrize("name", ["LABRADOR_MAX_QUEU", "LABRADOR_PORT", "labrador_devices"])
def test_an_unknown_variable_is_refused_with_the_valid_ones(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=f"^unknown setting {name}; .*LABRADOR_MAX_QUEUE"):
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
def test_an_invalid_value_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"LABRADOR_{name}", value)
    with pytest.raises(SettingsError, match=message) as refusal:
        read_settings()
    assert "\n" not in str(refusal.value)


LEAST = 1e-9  # above 0


@pytest.mark.parametrize(
    ("name", "refused", "accepted"),
    [
        ("GPU_MEMORY_MB", -1, 0),
        ("RELOAD_S", -LEAST, 0),
        ("MAX_BODY_MB", 0, LEAST),
        ("MAX_BODY_MB", 1024 + LEAST, 1024),
        ("MAX_BODIES_MB", 9, 10),
        ("STORE_TIMEOUT_S", 0, LEAST),
        ("MAX_MEGAPIXELS", 0, LEAST),
        ("MAX_MEGAPIXELS", MEGAPIXELS_MAX + LEAST, MEGAPIXELS_MAX),
        ("MAX_QUEUE", 63, 64),
        ("MAX_BATCH", -1, 0),
        ("MAX_BATCH", 1025, 1024),
        ("TIMEOUT_S", 0, LEAST),
        ("READ_TIMEOUT_S", 0, LEAST),
        ("DRAIN_S", -LEAST, 0),
        ("CAPTURE_SHARE", -LEAST, 0),
        ("CAPTURE_SHARE", 1 + LEAST, 1),
        ("CAPTURE_IMAGES_PER_H", 0, 1),
        ("CAPTURE_MAX_MB", 0, LEAST),
        ("CAPTURE_DAYS", 0, LEAST),
    ],
)
def test_each_limit_is_the_last_valid_value(
    monkeypatch: pytest.MonkeyPatch, name: str, refused: float, accepted: float
) -> None:
    monkeypatch.setenv("LABRADOR_MAX_BODIES_MB", "1024")
    monkeypatch.setenv(f"LABRADOR_{name}", str(accepted))
    assert getattr(read_settings(), name.lower()) == accepted
    monkeypatch.setenv(f"LABRADOR_{name}", str(refused))
    with pytest.raises(SettingsError, match=f"^LABRADOR_{name}="):
        read_settings()


def test_api_keys_are_one_per_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("first\n\n  second \n")
    assert read_api_keys(file) == (b"first", b"second")
    assert read_api_keys(None) == ()


def test_a_missing_or_empty_file_of_api_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read_api_keys(tmp_path / "none")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SettingsError, match="contains no key"):
        read_api_keys(tmp_path / "empty")


def test_training_s_cache_variable_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABRADOR_CACHE", "/somewhere")
    assert read_settings().max_body_mb == 10
