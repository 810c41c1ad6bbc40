"""Blobs in a bucket: the parts of S3 they need, spoken by a small server in this process.

It stands in for the cloud, to see our requests and errors; it proves nothing about S3 itself.
"""

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from blobs import BlobMissing, Blobs
from contract.errors import BlobsUnavailable
from contract.ids import accepted_at_ms, week_of
from tests.ended import new_id

ID = new_id()
WEEK = week_of(ID)

SECRET = "a-very-secret-access-key"


class BucketHandler(BaseHTTPRequestHandler):
    """PUT, GET and HEAD of objects in memory; answers `broken` to everything while it is set."""

    objects: ClassVar[dict[str, bytes]] = {}
    broken: int | None = None

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.broken is None:
            assert self.headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=key/")
            self.objects[self.path] = body
        self.answer(b"", 200)

    def do_GET(self) -> None:
        if "list-type=2" in self.path:
            self.answer(self.listing(), 200)
            return
        found = self.objects.get(self.path)
        self.answer(found or b"", 404 if found is None else 200)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        """Remove several objects at once."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        keys = re.findall(r"<Key>(.*?)</Key>", body)
        for key in keys:
            self.objects.pop(f"/bucket/{key}", None)
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self.answer(f"<DeleteResult>{deleted}</DeleteResult>".encode(), 200)

    def listing(self) -> bytes:
        query = parse_qs(urlsplit(self.path).query)
        (prefix,), delimiter = query["prefix"], query.get("delimiter")
        keys = [key.removeprefix("/bucket/") for key in sorted(self.objects)]
        keys = [key for key in keys if key.startswith(prefix)]
        told = "".join(
            f"<Contents><Key>{key}</Key><Size>1</Size><ETag>e</ETag>"
            "<LastModified>2026-11-21T00:00:00.000Z</LastModified></Contents>"
            for key in keys
            if not delimiter
        )
        if delimiter:
            folders = {prefix + key.removeprefix(prefix).partition("/")[0] + "/" for key in keys}
            told = "".join(
                f"<CommonPrefixes><Prefix>{each}</Prefix></CommonPrefixes>"
                for each in sorted(folders)
            )
        head = f"<Name>bucket</Name><KeyCount>{len(keys)}</KeyCount><MaxKeys>1000</MaxKeys>"
        text = f"<ListBucketResult>{head}<IsTruncated>false</IsTruncated>{told}</ListBucketResult>"
        return text.encode()

    def answer(self, body: bytes, status: int) -> None:
        self.send_response(self.broken or status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"etag"')
        self.send_header("Last-Modified", "Sat, 21 Nov 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[BucketHandler]]:
    class Handler(BucketHandler):
        objects: ClassVar[dict[str, bytes]] = {}

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("AWS_REGION", "eu-north-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield Handler
        server.shutdown()
        thread.join()


async def test_a_bucket_keeps_blobs_as_a_folder_does(bucket: type[BucketHandler]) -> None:
    blobs = Blobs.open("s3://bucket/some/prefix")
    content = os.urandom(6_000_000)
    sha256 = hashlib.sha256(content).hexdigest()
    assert not await blobs.exists(ID, sha256)
    with pytest.raises(BlobMissing):
        await blobs.get(ID, sha256)

    await blobs.put(ID, content, sha256)

    assert list(bucket.objects) == [f"/bucket/some/prefix/{WEEK:%Y_%m_%d}/{sha256[:2]}/{sha256}"]
    assert await blobs.exists(ID, sha256)
    assert await blobs.get(ID, sha256) == content


async def test_a_bucket_forgets_a_week_as_a_folder_does(bucket: type[BucketHandler]) -> None:
    blobs = Blobs.open("s3://bucket/some/prefix")
    earlier = new_id(accepted_at_ms(ID) - 7 * 24 * 3600 * 1000)
    contents = [b"%d" % number for number in range(3)]
    names = {hashlib.sha256(each).hexdigest(): each for each in contents}
    for prediction_id in (ID, earlier):
        for sha256, content in names.items():
            await blobs.put(prediction_id, content, sha256)

    assert await blobs.weeks() == [week_of(earlier), WEEK]
    assert {each async for each in blobs.names(WEEK)} == names.keys()
    assert await blobs.remove_week(week_of(earlier)) == len(names)

    assert await blobs.weeks() == [WEEK]
    assert len(bucket.objects) == len(names)
    assert await blobs.remove_week(week_of(earlier)) == 0


@pytest.mark.parametrize("status", [403, 503])
async def test_a_bucket_that_refuses_is_unavailable_and_no_secret_is_told(
    bucket: type[BucketHandler], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    blobs = Blobs.open("s3://bucket/prefix")
    content = b"precious"
    sha256 = hashlib.sha256(content).hexdigest()
    bucket.broken = status

    for call in (blobs.put(ID, content, sha256), blobs.get(ID, sha256), blobs.exists(ID, sha256)):
        with pytest.raises(BlobsUnavailable) as raised:
            await call
        assert raised.value.__cause__ is None

    told = [str(vars(record)) for record in caplog.records if record.msg == "blobs.failed"]
    assert len(told) == 3
    assert SECRET not in str(told)
