import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from models.conformal import Novelty
from models.errors import DataError
from models.store import Store
from serving.cluster import parts
from serving.cluster.parts import Parts, schema, table
from serving.scoring import Row
from testkit import novel_models, tiny_models

MANIFEST = tiny_models.content("colours", 1, "single")[0]
SCORES = np.array([0.7, 0.2, 0.1], np.float32)
GOOD = Row("a.jpg", "red", None, None, SCORES)
BAD = Row("b.jpg", error="image_missing: the image has no bytes")


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return list(parquet.read_table(folder).to_pylist())


def test_a_part_has_the_columns_of_the_csv_with_scores_in_float32(tmp_path: Path) -> None:
    found = Parts(tmp_path / "new" / "out", MANIFEST)
    found.add(table([GOOD, BAD], MANIFEST))
    assert not (tmp_path / "new").exists()
    found.write()
    whole = parquet.read_table(tmp_path / "new" / "out" / "part-00000.parquet")
    texts = [(name, pa.string()) for name in ("path", "model", "predicted", "error")]
    assert whole.schema == pa.schema([*texts, *((n, pa.float32()) for n in tiny_models.LABELS)])
    scores = dict(zip(tiny_models.LABELS, SCORES.tolist(), strict=True))
    assert whole.to_pylist() == [
        {"path": "a.jpg", "model": "colours:1", "predicted": "red", "error": None, **scores},
        {"path": "b.jpg", "model": "colours:1", "predicted": None, "error": BAD.error}
        | dict.fromkeys(tiny_models.LABELS),
    ]


def test_novelty_is_a_p_value_and_a_boolean(tmp_path: Path) -> None:
    novel_models.add(tmp_path, "colours", "single")
    manifest = Store(tmp_path).manifest("colours")
    known = Row("a.jpg", "red", None, Novelty(0.4, False), SCORES)
    found = table([known, BAD], manifest)
    assert found.schema.names[4:6] == ["p_value", "unknown"]
    assert found["p_value"].to_pylist() == [0.4, None]
    assert found["unknown"].to_pylist() == [False, None]


def test_a_part_is_written_as_soon_as_it_has_enough_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ROWS", 2)
    found = Parts(tmp_path, MANIFEST)
    for row in (GOOD, BAD, Row("c.jpg", "red", None, None, SCORES)):
        found.add(table([row], MANIFEST))
    assert [row["path"] for row in rows_in(tmp_path)] == ["a.jpg", "b.jpg"]
    found.write()
    found.write()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]


def test_what_earlier_runs_have_done_is_known_and_kept(tmp_path: Path) -> None:
    first = Parts(tmp_path, MANIFEST)
    first.add(table([GOOD, BAD], MANIFEST))
    first.write()
    (tmp_path / ".unfinished-x").write_bytes(b"of a run that was killed")
    second = Parts(tmp_path, MANIFEST)
    assert second.errors == {"a.jpg": "", "b.jpg": BAD.error}
    second.add(table([Row("c.jpg", "red", None, None, SCORES)], MANIFEST))
    second.write()
    assert len(parquet.read_table(tmp_path / "part-00000.parquet")) == 2
    assert len(parquet.read_table(tmp_path / "part-00001.parquet")) == 1


def test_a_folder_with_anything_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(DataError, match="has photo.jpg, which is no part of predictions: give"):
        Parts(tmp_path, MANIFEST)
    with pytest.raises(DataError, match="photo.jpg is a file: give another --out, for a folder"):
        Parts(tmp_path / "photo.jpg", MANIFEST)


@pytest.mark.parametrize("kept_bytes", [0, 3, 200, -1])
def test_a_part_that_is_cut_off_is_named(kept_bytes: int, tmp_path: Path) -> None:
    first = Parts(tmp_path, MANIFEST)
    first.add(table([GOOD, BAD], MANIFEST))
    first.write()
    part = tmp_path / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:kept_bytes])
    with pytest.raises(DataError, match=f"^{part} cannot be read: [^\n]+$"):
        Parts(tmp_path, MANIFEST)


def test_a_url_that_cannot_be_used_is_named() -> None:
    url = "s3://bucket/predictions?nonsense=1"
    with pytest.raises(DataError, match=f"^{re.escape(url)} cannot be read: [^\n]*nonsense"):
        Parts(url, MANIFEST)


def test_predictions_of_another_model_are_refused(tmp_path: Path) -> None:
    first = Parts(tmp_path, MANIFEST)
    first.add(table([GOOD], MANIFEST))
    first.write()
    other = tiny_models.content("colours", 2, "single")[0]
    with pytest.raises(DataError, match="has predictions of colours:1, not colours:2: give anot"):
        Parts(tmp_path, other)
    fewer = MANIFEST.model_copy(update={"labels": ("red", "green")})
    with pytest.raises(DataError, match="does not have the columns of colours:1: give another"):
        Parts(tmp_path, fewer)


def test_a_label_that_is_another_column_s_name_is_refused() -> None:
    clashing = MANIFEST.model_copy(update={"labels": ("red", "error", "blue")})
    with pytest.raises(DataError, match="^the label 'error' of colours:1 is also another column's"):
        schema(clashing)
