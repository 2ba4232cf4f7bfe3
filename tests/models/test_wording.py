from models.wording import counted, some


def test_counted() -> None:
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert (counted(1, "process", "processes"), counted(2, "process", "processes")) == (
        "1 process",
        "2 processes",
    )
    assert counted(1156, "image") == "1,156 images"


def test_some() -> None:
    assert [some(list("abc")[:n], 2) for n in range(4)] == ["", "a", "a, b", "a, b and 1 more"]
