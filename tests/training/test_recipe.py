from pathlib import Path
from typing import Any

import pytest

from models.errors import RecipeError
from training.recipe import Recipe, data_arguments, resolve, train_arguments


def refused(options: dict[str, Any], file: Path | None = None) -> str:
    with pytest.raises(RecipeError) as caught:
        resolve({"data": "pets", **options}, file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def toml(folder: Path, text: str) -> Path:
    file = folder / "recipe.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_data_is_all_a_recipe_needs() -> None:
    assert resolve({"data": "pets"}) == Recipe(data="pets")
    with pytest.raises(RecipeError, match="^data is missing$"):
        resolve({})


def test_every_option_is_described() -> None:
    assert [name for name, field in Recipe.model_fields.items() if not field.description] == []


def test_a_file_overrides_the_defaults_and_options_override_the_file(tmp_path: Path) -> None:
    file = toml(tmp_path, 'epochs = 9\narch = "resnet50"\nflip = 0.25\n')
    recipe = resolve({"data": "pets", "epochs": "3"}, file)
    assert (recipe.epochs, recipe.arch, recipe.flip) == (3, "resnet50", 0.25)
    assert recipe.seed == Recipe(data="pets").seed


def test_text_from_the_command_line_becomes_numbers() -> None:
    recipe = resolve({"data": "pets", "image_size": "128", "weight_decay": "1e-3", "seed": "7"})
    assert (recipe.image_size, recipe.weight_decay, recipe.seed) == (128, 1e-3, 7)


def test_an_unknown_key_is_refused_with_the_valid_ones(tmp_path: Path) -> None:
    message = refused({}, toml(tmp_path, "epoch = 3\n"))
    assert message.startswith("unknown option epoch; valid: data, pattern, ")
    assert all(name in message for name in Recipe.model_fields)


@pytest.mark.parametrize(
    ("name", "value", "choices"),
    [
        ("arch", "vgg16", "'resnet18', 'resnet34', 'resnet50', 'resnet101' or 'resnet152'"),
        ("task", "both", "'single' or 'multi'"),
        ("device", "tpu", "'auto', 'cuda' or 'cpu'"),
        ("image_size", "16", "greater than or equal to 32"),
        ("valid", "0", "greater than 0"),
        ("valid", "1", "less than 1"),
        ("epochs", "2.5", "integer"),
        ("batch_size", "1", "greater than or equal to 2"),
        ("seed", "-1", "greater than or equal to 0"),
        ("flip", "nan", "finite"),
        ("warp", "0.6", "less than or equal to 0.5"),
        ("light", "1", "less than 1"),
        ("scale", "0", "greater than 0"),
        ("crop_fraction", "1.1", "less than or equal to 1"),
    ],
)
def test_a_wrong_value_is_named_with_the_choices(name: str, value: str, choices: str) -> None:
    message = refused({name: value})
    assert message.startswith(f"{name}={value!r}: ")
    assert choices in message


def test_all_wrong_values_are_named_at_once() -> None:
    message = refused({"arch": "vgg16", "epochs": "-1"})
    assert "arch='vgg16'" in message
    assert "epochs='-1'" in message


@pytest.mark.parametrize("lr", ["0", "-1e-3", "fast", "inf", "nan", "", "1:2:3", "1e-4:", "0:1"])
def test_an_invalid_learning_rate_is_refused(lr: str) -> None:
    assert refused({"lr": lr}).startswith(f"lr={lr!r}: use a positive number, STEM:HEAD")


def test_a_learning_rate_may_be_a_number_in_a_file(tmp_path: Path) -> None:
    assert resolve({"data": "pets"}, toml(tmp_path, "lr = 4e-3\n")).head_lr == 4e-3


def test_one_learning_rate_gives_the_head_half_of_it_and_the_stem_a_hundredth_of_that() -> None:
    recipe = Recipe(data="pets", lr="4e-3")
    assert recipe.head_lr == 4e-3
    assert recipe.whole_lrs == pytest.approx((2e-5, 2e-3))


def test_two_learning_rates_are_those_of_the_whole_network() -> None:
    recipe = Recipe(data="pets", lr="1e-6:1e-4")
    assert recipe.head_lr == 1e-4
    assert recipe.whole_lrs == (1e-6, 1e-4)


def test_no_epochs_at_all_are_refused() -> None:
    assert "nothing would be trained" in refused({"epochs": "0", "freeze_epochs": "0"})
    assert resolve({"data": "pets", "epochs": "0"}).epochs == 0
    assert resolve({"data": "pets", "freeze_epochs": "0"}).freeze_epochs == 0


@pytest.mark.parametrize("text", ["epochs = ", "epochs: 3", "\x00"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, text: str) -> None:
    file = toml(tmp_path, text)
    assert refused({}, file).startswith(f"{file} cannot be read as TOML: ")


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    assert refused({}, missing).startswith(f"{missing} cannot be read as TOML: ")
    missing.write_bytes(b"\xff\xfe\x00")
    assert refused({}, missing).startswith(f"{missing} cannot be read as TOML: ")


def test_the_arguments_for_the_data_can_be_pasted_into_a_shell() -> None:
    recipe = resolve({"data": "my pets", "pattern": r"(.+)_\d", "task": "multi", "seed": 3})
    assert data_arguments(recipe) == r"'my pets' --pattern '(.+)_\d' --task multi"
    named = resolve(
        {
            "data": "l.csv",
            "images": "far",
            "relabel": "r.csv",
            "quarantine": "q.csv",
            "correct": "c.csv",
        }
    )
    assert data_arguments(named) == "l.csv --images far --relabel r.csv --correct c.csv"


def test_images_are_presized_a_quarter_larger_than_the_input() -> None:
    assert resolve({"data": "x", "image_size": 90}).presize_px == 112


def test_data_may_be_several_in_a_file_and_on_a_command_line(tmp_path: Path) -> None:
    several = resolve({}, toml(tmp_path, 'data = ["photos", "more photos"]\n'))
    assert several.sources == ("photos", "more photos")
    assert several.data_name == "photos and more photos"
    assert train_arguments(several) == "photos 'more photos'"
    assert Recipe.model_validate_json(several.model_dump_json()) == several
    assert resolve({"data": ["photos"]}) == resolve({"data": "photos"}) == Recipe(data="photos")
    assert Recipe(data="photos").sources == ("photos",)


def test_the_same_data_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^data=\['a', 'b', 'a'\]: give each of them once$"):
        resolve({"data": ["a", "b", "a"]})
