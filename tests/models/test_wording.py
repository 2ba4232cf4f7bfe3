from models.wording import counted


def test_counted() -> None:
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert (counted(1, "process", "processes"), counted(2, "process", "processes")) == (
        "1 process",
        "2 processes",
    )
    assert counted(1156, "image") == "1,156 images"
