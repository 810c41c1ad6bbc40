"""Where blobs are kept, read from a URL.

Credentials are never in the URL. obstore takes them from the environment (`AWS_ACCESS_KEY_ID`,
`AZURE_STORAGE_ACCOUNT_KEY`, `GOOGLE_SERVICE_ACCOUNT`, ...) or from the machine's role.
"""

from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from obstore.store import LocalStore, ObjectStore, from_url

from contract.errors import BlobsUnavailable

REMOTE_SCHEMES = ("s3", "gs", "az")

# Less patient than obstore's own three minutes: a caller is waiting, and may try again.
CONNECT_S_MAX = 5
REQUEST_S_MAX = 30
RETRIES_MAX = 3


def local_folder(url: str) -> Path | None:
    """The folder a file URL names; None for the URL of a remote store.

    Raises:
        ValueError: neither. The message does not repeat the URL, in case it holds a password.
    """
    parts = urlsplit(url)
    if parts.scheme in REMOTE_SCHEMES:
        if parts.username is not None:
            raise ValueError("credentials of a blob store belong into the environment, not the URL")
        if not parts.netloc:
            raise ValueError(f"a blob URL names its bucket: {parts.scheme}://bucket/prefix")
        return None
    if parts.scheme != "file":
        raise ValueError("a blob URL reads file:///folder, s3://…, gs://… or az://…")
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ValueError("a file URL has three slashes and an absolute path: file:///folder")
    return Path(url2pathname(parts.path))


def local_store(folder: Path) -> ObjectStore:
    """Open a folder; makes it, for this user alone, if it is not there.

    Raises:
        BlobsUnavailable: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BlobsUnavailable(f"the folder for blobs cannot be made: {error.strerror}") from error
    return LocalStore(folder)


def remote_store(url: str) -> ObjectStore:
    return from_url(
        url,
        client_options={
            "connect_timeout": timedelta(seconds=CONNECT_S_MAX),
            "timeout": timedelta(seconds=REQUEST_S_MAX),
            # Plain HTTP happens only where AWS_ENDPOINT asks for it, and obstore does not read
            # AWS_ALLOW_HTTP by itself.
            "allow_http": True,
        },
        retry_config={
            "max_retries": RETRIES_MAX,
            "retry_timeout": timedelta(seconds=REQUEST_S_MAX),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        },
    )
