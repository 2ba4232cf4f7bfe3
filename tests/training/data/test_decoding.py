from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.bundle import sha256
from models.errors import DataError
from models.manifest import Preprocess
from models.preprocess import decode
from models.wording import counted
from testkit.image_sets import image, put
from training.data import decoding


def files(folder: Path, count: int) -> list[Path]:
    names = [f"{number:02}.jpg" for number in range(count)]
    put(folder, *names)
    return [folder / name for name in names]


@pytest.mark.parametrize("preprocess", [(32, 1.0), (24, 0.8)])
def test_served_images_are_what_serving_decodes(
    tmp_path: Path, preprocess: tuple[int, float]
) -> None:
    how = Preprocess(image_size_px=preprocess[0], crop_fraction=preprocess[1])
    found = files(tmp_path, 9)
    served = decoding.served(found, how)
    assert (served.dtype, served.shape) == (
        torch.uint8,
        (9, how.image_size_px, how.image_size_px, 3),
    )
    for file, row in zip(found, served, strict=True):
        assert np.array_equal(row.numpy(), decode(file.read_bytes(), how))


def test_presized_images_are_whole_squares_with_their_shapes(tmp_path: Path) -> None:
    """Four colours in the quarters: a crop would move the point where they meet."""
    corners = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    for name, size in (("wide.png", (96, 48)), ("tall.png", (40, 100)), ("square.png", (64, 64))):
        Image.fromarray(corners).resize(size, Image.Resampling.NEAREST).save(tmp_path / name)
    names = ("wide.png", "tall.png", "square.png")
    squares, shapes = decoding.presized([tmp_path / name for name in names], 32)
    assert (squares.dtype, squares.shape) == (torch.uint8, (3, 32, 32, 3))
    assert (shapes.dtype, shapes.tolist()) == (torch.float32, [[2, 1], [1, 2.5], [1, 1]])
    for square in squares.numpy():
        assert np.array_equal(square[[2, 2, 29, 29], [2, 29, 2, 29]], corners.reshape(4, 3))
        assert np.array_equal(square[12, [12, 19]], corners[0])
        assert np.array_equal(square[19, [12, 19]], corners[1])


def test_a_large_jpeg_is_not_reduced_below_its_square(tmp_path: Path) -> None:
    """Stripes of four pixels survive at half the size; at an eighth they would be grey."""
    stripes = (np.arange(512) // 4 % 2 * 255).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(stripes[None, :, None], (512, 512, 3)).copy())
    image.save(tmp_path / "stripes.jpg", quality=95)
    (square,), _ = decoding.presized([tmp_path / "stripes.jpg"], 256)
    assert square.float().std() > 100


def test_presized_images_are_upright(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((48, 96, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert decoding.presized([tmp_path / "turned.jpg"], 32)[1].tolist() == [[1, 2]]


@pytest.mark.parametrize("step", ["served", "presized", "squeezed", "decoded"])
def test_files_that_cannot_be_used_are_all_named_at_once(tmp_path: Path, step: str) -> None:
    found = files(tmp_path, 6)
    found[1].write_bytes(image(1)[:300])
    found[3].write_bytes(b"no image")
    found[4].unlink()
    with pytest.raises(DataError) as caught:
        if step == "served":
            decoding.served(found, Preprocess(image_size_px=32, crop_fraction=1))
        elif step == "presized":
            decoding.presized(found, 32)
        elif step == "squeezed":
            decoding.squeezed(found, 32)
        else:
            list(decoding.decoded(found, sha256))
    message = str(caught.value)
    bad = {4} if step == "decoded" else {1, 3, 4}
    assert message.startswith(f"{counted(len(bad), 'image')} cannot be used: ")
    assert {number for number in range(6) if str(found[number]) in message} == bad
    assert "No such file" in message
    assert "\n" not in message


def test_of_many_bad_files_five_are_named_and_all_counted(tmp_path: Path) -> None:
    missing = [tmp_path / f"{number}.jpg" for number in range(12)]
    with pytest.raises(DataError) as caught:
        list(decoding.decoded(missing, sha256))
    assert str(caught.value).startswith("12 images cannot be used: ")
    assert sum(str(file) in str(caught.value) for file in missing) == 5
