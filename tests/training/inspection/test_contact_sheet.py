from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.manifest import Preprocess
from models.preprocess import decode
from testkit import image_sets
from training.data.record import Record
from training.inspection import contact_sheet


def records(labels: str) -> list[Record]:
    return [Record(f"{n}.jpg", (label,)) for n, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        ("aaabbbccc", "aaabbbcc"),
        ("aaaaaaaaaaaab", "aaaaaaab"),
        ("abcdefghijklmnop", "acegikmo"),
        ("ab", "ab"),
        ("", ""),
    ],
)
def test_as_many_labels_as_possible_are_shown(labels: str, chosen: str) -> None:
    found = contact_sheet.choose(records(labels))
    assert sorted(record.labels[0] for record in found) == list(chosen)
    assert len({record.file for record in found}) == len(found)


def test_images_without_a_label_and_with_several_are_shown_too() -> None:
    several = [Record("a.jpg", ()), Record("b.jpg", ("x", "y")), Record("c.jpg", ("x",))]
    assert sorted(record.file for record in contact_sheet.choose(several)) == [
        "a.jpg",
        "b.jpg",
        "c.jpg",
    ]


def sheet(folder: Path, **changes: float) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    recipe = image_sets.recipe(folder, image_size=64, **changes)
    found = [Record("0.png", ("a label far too long for its image",)), Record("1.png", ())]
    return np.asarray(contact_sheet.draw_sheet(folder, found, recipe))


def test_the_first_row_is_what_is_served_and_the_others_are_different_views(
    tmp_path: Path,
) -> None:
    for number in range(2):
        image_sets.photo(number).save(tmp_path / f"{number}.png")
    pixels = sheet(tmp_path)
    assert pixels.shape == (20 + 20 + 68 + 20 + 4 * 68, 2 * 68 + 4, 3)
    preprocess = Preprocess(image_size_px=64, crop_fraction=0.9)
    for number in range(2):
        left = 4 + 68 * number
        served = decode((tmp_path / f"{number}.png").read_bytes(), preprocess)
        assert np.array_equal(pixels[40:104, left : left + 64], served)
        views = [pixels[128 + 68 * n :, left : left + 64][:64] for n in range(4)]
        assert len({view.tobytes() for view in views}) == 4
    assert (pixels[:20, 68:72] == 255).all()  # no caption runs into the next


def test_the_augmentation_options_are_visible(tmp_path: Path) -> None:
    for number in range(2):
        image_sets.photo(number).save(tmp_path / f"{number}.png")
    still = {"flip": 0, "rotation": 0, "scale": 1, "warp": 0, "light": 0}
    views = [sheet(tmp_path, **still)[128 + 68 * n :, 4:68][:64] for n in range(4)]
    assert not np.array_equal(sheet(tmp_path), sheet(tmp_path, **still))
    assert not np.array_equal(sheet(tmp_path, light=0.9), sheet(tmp_path))
    assert views[0].std() > 0


def test_large_views_are_reduced(tmp_path: Path) -> None:
    Image.new("RGB", (300, 300), "red").save(tmp_path / "0.png")
    recipe = image_sets.recipe(tmp_path, image_size=224)
    drawn = contact_sheet.draw_sheet(tmp_path, [Record("0.png", ("red",))], recipe)
    assert drawn.width == 176 + 8
    assert drawn.getpixel((90, 100)) == (255, 0, 0)
