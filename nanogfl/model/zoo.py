"""Download of published weights by name: each file is fetched into a cache once and checked, but not loaded here.

The cache is ``$NANOGFL_CACHE``, else ``$XDG_CACHE_HOME/nanogfl``, else ``~/.cache/nanogfl``. If ``$NANOGFL_MIRROR``
is set, files are fetched from ``<mirror>/<file name>`` instead of the publisher.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import time
import urllib.error
import urllib.request
import uuid
import zipfile
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO

from nanogfl.errors import DownloadError, UsageError, nearest
from nanogfl.model.coco_names import COCO_NAMES
from nanogfl.model.published import PREFIX, PUBLISHED, PublishedFile

log = logging.getLogger(__name__)
TIMEOUT_S = 20.0
CHUNK = 1 << 18
RESTART_AFTER_S = (0.1, 0.3, 0.9)
WEB_ADDRESS = re.compile(r"https?://(\[[\da-f:]+\]|[\w.-]+)(:\d+)?/\S+", re.IGNORECASE)


def resolve(name_or_path: str, size: str = "m") -> Path:
    """Return the path of an existing file, or of a published name's file, which is fetched if it is not in the cache.

    ``size`` (s, m or l, or resnet18, resnet34, resnet50) selects the backbone that the name ``imagenet`` stands for.
    """
    path = Path(name_or_path)
    best = next((path / name for name in ("best.ckpt", "last.ckpt") if (path / name).is_file()), None)
    if best is not None:
        raise UsageError(f"{name_or_path} is a run folder; use {best}")
    return path if path.is_file() else fetch(lookup(name_or_path, size))


def lookup(name: str, size: str = "m") -> PublishedFile:
    """Return a published file by its name, by the name without ``nanodet-plus-``, or by ``imagenet`` and a size."""
    for candidate in (name, PREFIX + name, f"{name}-{size}"):
        if candidate in PUBLISHED:
            return PUBLISHED[candidate]
    if name == "imagenet":
        raise UsageError(f"size {size!r} has no ImageNet backbone: choose s, m or l")
    names = ["imagenet", *PUBLISHED]
    hint = nearest(name.removeprefix(PREFIX), [known.removeprefix(PREFIX) for known in names])
    raise UsageError(f"{name!r} is neither a file nor published weights{hint}; available: {', '.join(names)}")


def cache_folder() -> Path:
    """Return the absolute path of the folder in which published files are kept; it need not exist."""
    if chosen := os.environ.get("NANOGFL_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "nanogfl"


def fetch(entry: PublishedFile) -> Path:
    """Return the path of ``entry`` in the cache; download it if it is missing, and check it in either case."""
    target = cache_folder() / entry.file_name
    try:
        if not target.exists():
            _download(_address(entry), target, entry)
        elif fault := _fault(target, entry):
            raise DownloadError(f"{target}: {fault}; delete this file and run the same command again")
    except OSError as error:
        raise DownloadError(f"{target}: {error.strerror or error}; set NANOGFL_CACHE to another folder") from error
    return target


def check_cached(path: Path, size: str, classes: int) -> None:
    """Refuse a cached file that holds a different network than its name stands for.

    If no digest was published, this can only be detected after the file has been read.

    Raises:
        DownloadError: the size or the number of classes differs.
    """
    if path.parent != cache_folder():
        return
    for name, entry in PUBLISHED.items():
        if entry.file_name == path.name and (entry.size, len(COCO_NAMES)) != (size, classes):
            raise DownloadError(
                f"{path} has size {size} and {classes} classes, {name} has size {entry.size} and {len(COCO_NAMES)}; "
                "delete this file and run the same command again"
            )


class _PermanentError(Exception):
    """A download attempt failed in a way that another attempt would not fix."""


class _TransientError(_PermanentError):
    """A download attempt failed, but another attempt may succeed."""


def _address(entry: PublishedFile) -> str:
    mirror = os.environ.get("NANOGFL_MIRROR")
    url = f"{mirror.rstrip('/')}/{entry.file_name}" if mirror else entry.url
    if not WEB_ADDRESS.fullmatch(url):
        source = "NANOGFL_MIRROR" if mirror else "the address"
        raise UsageError(f"{source} {mirror or url!r}: only http:// and https:// addresses are supported")
    return url


def _download(url: str, target: Path, entry: PublishedFile) -> None:
    log.info("downloading %s to %s", url, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The process id and a random part keep concurrent downloads of one file from writing to the same partial file.
    partial = target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        _receive_with_restarts(url, partial, target.name)
        if fault := _fault(partial, entry):
            raise _PermanentError(f"{fault} (file discarded)")
        partial.replace(target)
    except _PermanentError as error:
        raise DownloadError(f"{url}: {error}; download it manually and save it as {target}") from error
    finally:
        partial.unlink(missing_ok=True)
    log.info("downloaded %s, %.1f MB", target, target.stat().st_size / 1e6)


def _receive_with_restarts(url: str, partial: Path, name: str) -> None:
    for pause in RESTART_AFTER_S:
        try:
            return _receive(url, partial, name)
        except _TransientError as error:  # noqa: PERF203 (a round is a download)
            log.info("%s: %s, retrying", url, error)
            time.sleep(pause)
    return _receive(url, partial, name)


def _receive(url: str, partial: Path, name: str) -> None:
    """Download ``url`` to ``partial`` from the start; ``name`` is the name shown with the progress."""
    with _open(url) as response, partial.open("wb") as file:
        total, done = response.length, 0
        while chunk := _read(response):
            file.write(chunk)
            done += len(chunk)
            _show_progress(name, done, total)
    if total is not None and done != total:
        raise _TransientError(f"the connection was lost after {done} of {total} bytes")


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """A handler that follows redirects to https, or to the original scheme; urllib's own also follows them to ftp."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if newurl.partition(":")[0] not in ("https", req.type):
            raise urllib.error.HTTPError(newurl, code, f"to {newurl}, not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str) -> HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "nanogfl"})
    try:
        return urllib.request.build_opener(_WebOnly).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        kind = _TransientError if error.code >= 500 or error.code == 429 else _PermanentError
        raise kind(f"the server returned {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _PermanentError(f"no connection ({error.reason})") from error
    except (OSError, HTTPException) as error:
        raise _TransientError(f"the connection was lost ({error})") from error


def _read(response: HTTPResponse) -> bytes:
    # Separate from writing, so that a full disk is not mistaken for a lost connection and retried.
    try:
        return response.read(CHUNK)
    except (OSError, HTTPException) as error:
        raise _TransientError(f"the connection was lost ({error})") from error


def _fault(path: Path, entry: PublishedFile) -> str | None:
    """Return why ``path`` cannot be the published file; None if no fault is found."""
    with path.open("rb") as file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"<"):
        return "it is a web page, not weights (a login or proxy page?)"
    if entry.sha256 is not None:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return None if digest.startswith(entry.sha256) else f"its sha256 is {digest}, expected {entry.sha256}"
    # torch saves zips, whose index is at the end, so a truncated file is not a valid zip. Before 1.6 it saved pickles.
    is_pickle = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if is_pickle or (head.startswith(b"PK") and zipfile.is_zipfile(path)):
        return None
    return "it is neither a complete zip nor a pickle, so not a torch file"


def _show_progress(name: str, done: int, total: int | None) -> None:
    """Show the progress on one line of the terminal; do nothing if stderr is not a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        return
    text = f"{name}: {100 * done // total:3d} %" if total else f"{name}: {done / 1e6:.1f} MB"
    # Return the cursor to the start of the line, so that the next output, also an error message, overwrites it.
    sys.stderr.write(f"{' ' * len(text) if done == total else text}\r")
    sys.stderr.flush()
