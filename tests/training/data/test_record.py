import pytest

from training.data.record import Record, Scan


@pytest.mark.parametrize(
    ("file", "form", "lies"),
    [
        ("a.jpg", "JPEG", False),
        ("deep/er.png/a.JPEG", "JPEG", False),
        ("a.Png", "PNG", False),
        ("a.webp", "WebP", False),
        ("a.jpg", "PNG", True),
        ("a.png.jpeg", "WebP", True),
        ("a.webp", "JPEG", True),
        ("a.data", "PNG", False),  # names no format
        ("jpg", "PNG", False),
        ("a.jpg", None, False),  # not an image: that is another fault
    ],
)
def test_an_extension_is_wrong_if_it_names_another_format(
    file: str, form: str | None, lies: bool
) -> None:
    assert Record(file, (), scan=Scan(format=form)).extension_is_wrong == lies
