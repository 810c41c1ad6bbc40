"""The URL of a blob store, and what is refused before anything is opened."""

from pathlib import Path

import pytest

from blobs import Blobs
from blobs.location import local_folder
from tests.ended import new_id

ID = new_id()


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("file:///var/lib/blobs", Path("/var/lib/blobs")),
        ("file:///var/lib/my%20blobs", Path("/var/lib/my blobs")),
        ("file://localhost/blobs", Path("/blobs")),
        ("s3://bucket/prefix", None),
        ("gs://bucket", None),
        ("az://container/prefix", None),
    ],
)
def test_a_url_names_a_folder_or_a_remote_store(url: str, folder: Path | None) -> None:
    assert local_folder(url) == folder


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/var/lib/blobs",
        "file://var/lib/blobs",
        "file:var/lib",
        "memory:///",
        "ftp://host/blobs",
        "s3:///prefix",
    ],
)
def test_any_other_url_is_refused_with_what_to_write_instead(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Blobs.open(url)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="environment") as refused:
        Blobs.open("s3://key:very-secret@bucket/prefix")

    assert "very-secret" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["", "ab", "../../etc/passwd", "A" * 64, "g" * 64, "a" * 63 + "\n", "a" * 65]
)
async def test_only_a_sha256_is_ever_a_name(tmp_path: Path, name: str) -> None:
    blobs = Blobs.open(tmp_path.as_uri())

    with pytest.raises(ValueError, match="64 digits"):
        await blobs.get(ID, name)
    with pytest.raises(ValueError, match="64 digits"):
        await blobs.put(ID, b"", name)
    with pytest.raises(ValueError, match="64 digits"):
        await blobs.exists(ID, name)
