from pathlib import Path

import numpy as np
import pytest
import torch

from models.errors import DataError
from models.hardware import cpu_cores
from models.wording import counted
from testkit import image_sets
from training.commands.train import train
from training.data import image_source as module
from training.data.decoding import squeezed
from training.data.image_source import Cached, Streamed, image_source
from training.run_folder import CURVES_FILE, WEIGHTS_FILE

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # 1 core
CPU = torch.device("cpu")
ROWS = [torch.tensor(rows) for rows in ([3, 0], [1, 4, 1], [2])]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five images of different shapes. Not to be changed."""
    folder = tmp_path_factory.mktemp("images")
    made = []
    for number in range(5):
        made.append(folder / f"{number}.jpg")
        made[-1].write_bytes(image_sets.image(number, size=(40 + 10 * number, 36)))
    return made


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_images_are_the_cached_ones(files: list[Path], workers: int) -> None:
    cached = image_source(files, image_sets.recipe(cache="memory"), CPU)
    streamed = image_source(files, image_sets.recipe(cache="none", workers=workers), CPU)
    assert isinstance(cached, Cached)
    assert isinstance(streamed, Streamed)
    side = image_sets.recipe().presize_px
    for _ in range(2):  # each epoch asks again
        pairs = list(zip(cached.batches(ROWS), streamed.batches(ROWS), strict=True))
        assert len(pairs) == len(ROWS)
        for rows, (ours, theirs) in zip(ROWS, pairs, strict=True):
            assert ours[0].shape == (len(rows), side, side, 3)
            assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
            expected = squeezed([files[row] for row in rows.tolist()], side)
            assert all(torch.equal(*pair) for pair in zip(ours, expected, strict=True))


def test_cached_images_are_decoded_from_bytes_that_were_read_before(files: list[Path]) -> None:
    """The file is opened once for the scan; those bytes are decoded."""
    asked = []

    def read(file: Path) -> bytes:
        asked.append(file)
        return files[0].read_bytes()

    ((pixels, _),) = image_source(files, image_sets.recipe(cache="memory"), CPU, read).batches(
        [torch.arange(len(files))]
    )
    assert sorted(asked) == files
    assert len(torch.unique(pixels, dim=0)) == 1


def test_a_source_names_where_its_images_come_from(files: list[Path]) -> None:
    assert image_source(files, image_sets.recipe(cache="memory"), CPU).place == "memory"
    for workers, text in (
        (1, "1 process"),
        (3, "3 processes"),
        (0, "no other process"),
        (None, counted(cpu_cores(), "process", "processes")),
    ):
        place = image_source(files, image_sets.recipe(cache="none", workers=workers), CPU).place
        assert place == f"files, by {text}"


def test_the_processes_of_a_training_share_the_cores(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(cpu_cores()))
    assert image_source(files, image_sets.recipe(cache="none"), CPU).place == "files, by 1 process"


def test_training_from_files_gives_the_weights_that_training_from_memory_does(
    single_data: Path, tmp_path: Path
) -> None:
    def made(name: str, **options: object) -> list[bytes]:
        recipe = image_sets.recipe(single_data, valid=0.75, epochs=1, **options)
        path = train(recipe, tmp_path / name)
        return [(path / file).read_bytes() for file in (WEIGHTS_FILE, CURVES_FILE)]

    memory = made("memory", cache="memory")
    assert made("none", cache="none", workers=2) == memory
    assert made("alone", cache="none", workers=0) == memory


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("how", ["gone", "broken"])
def test_a_file_that_disappears_while_streaming_is_named_in_one_line(
    tmp_path: Path, workers: int, how: str
) -> None:
    files = [tmp_path / f"{number}.jpg" for number in range(4)]
    image_sets.put(tmp_path, *(file.name for file in files))
    given = Streamed(files, 40, workers).batches([torch.tensor([n]) for n in (0, 1, 2, 3)] * 8)
    next(given)
    if how == "gone":
        files[3].unlink()
    else:
        files[3].write_bytes(b"\xff\xd8\xff torn")
    with pytest.raises(DataError, match="1 image cannot be used: ") as caught:
        list(given)
    assert str(files[3]) in str(caught.value)
    assert "\n" not in str(caught.value)


# What fits where.


def test_auto_keeps_in_memory_what_fits_in_half_of_the_free_memory(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = len(files) * image_sets.recipe().presize_px ** 2 * 3
    for free_bytes, kind in ((2 * needed + 2, Cached), (2 * needed - 2, Streamed)):
        monkeypatch.setattr(module, "free_memory", lambda free=free_bytes: free)
        assert isinstance(image_source(files, image_sets.recipe(), CPU), kind)
    monkeypatch.setattr(module, "free_memory", lambda: 0)
    assert isinstance(image_source(files, image_sets.recipe(cache="memory"), CPU), Cached)
    monkeypatch.setattr(module, "free_memory", lambda: 10**12)
    assert isinstance(image_source(files, image_sets.recipe(cache="none"), CPU), Streamed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_auto_prefers_gpu_memory(files: list[Path]) -> None:
    given = image_source(files, image_sets.recipe(), torch.device("cuda"))
    assert given.place == "GPU memory"
    ((pixels, _),) = given.batches([torch.tensor([1, 3])])
    assert pixels.is_cuda
    assert np.array_equal(pixels.cpu(), squeezed([files[1], files[3]], 40)[0])
