"""What callers hand in: kinds of content, files on disk, and what arguments mean."""

from pathlib import Path

import pytest

from tritonq import inputs
from tritonq.address import find_service
from tritonq.command.files import NoSuchFile, find_files
from tritonq.errors import InvalidInput, NoService
from tritonq.inputs import media_type, read_input


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (b"\xff\xd8\xff\xe0", "cat.png", "image/jpeg"),  # the content is right, the name is not
        (b"\x89PNG\r\n\x1a\n", "", "image/png"),
        (b"GIF89a", "", "image/gif"),
        (b"RIFF\0\0\0\0WEBP", "", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", "a.wav", "audio/x-wav"),
        (b"hello", "notes.txt", "text/plain"),
        (b"hello", "", "application/octet-stream"),
        (b"", "", "application/octet-stream"),
    ],
)
def test_the_media_type_is_told_by_content_first(content: bytes, name: str, expected: str) -> None:
    assert media_type(content, name) == expected


def test_a_raw_body_is_an_image_or_bytes_of_no_said_kind(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("hello")

    assert read_input(notes).media_type == "application/octet-stream"
    assert b"data:text/plain;base64," in read_input({"text": notes}).content


def test_a_file_that_is_too_large_is_refused_without_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "FILE_BYTES_MAX", 10)
    path = tmp_path / "large"
    path.write_bytes(b"x" * 11)

    for given in (path, path.read_bytes(), {"image": path}, path.open("rb")):
        with pytest.raises(InvalidInput, match="11 bytes, more than 10"):
            read_input(given)
        if hasattr(given, "close"):
            given.close()


def test_a_field_whose_file_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot read") as caught:
        read_input({"image": tmp_path / "missing.jpg"})
    assert caught.value.field == "input.image"


def test_a_folder_means_its_files_by_name_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.jpg", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "c.jpg").touch()

    assert [path.name for path in find_files([str(tmp_path)])] == ["a.jpg", "b.jpg"]
    pattern = str(tmp_path / "**" / "*.jpg")
    assert [path.name for path in find_files([pattern])] == ["a.jpg", "b.jpg", "c.jpg"]


def test_files_keep_the_order_of_the_arguments_and_come_once(tmp_path: Path) -> None:
    first, second = tmp_path / "z.jpg", tmp_path / "[a].jpg"
    first.touch()
    second.touch()

    assert find_files([str(first), str(second), str(tmp_path)]) == [first, second]


def test_an_argument_that_means_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoSuchFile, match="no files in"):
        find_files([str(tmp_path / "empty")])
    with pytest.raises(NoSuchFile, match=r"nothing\.jpg"):
        find_files([str(tmp_path / "nothing.jpg")])


def test_the_address_is_the_callers_then_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONQ_URL", "https://there/v1/")
    monkeypatch.setenv("TRITONQ_TOKEN", "secret")

    there = find_service()
    assert (there.url, there.token) == ("https://there", "secret")
    assert "secret" not in repr(there)
    here = find_service("http://here:8080/")
    assert here.url == "http://here:8080"
    assert find_service("http://here", "other").token == "other"


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "http://", "/v1"])
def test_an_address_that_is_none_is_refused_with_the_form_it_has(url: str) -> None:
    with pytest.raises(NoService, match="http://host:port"):
        find_service(url)
