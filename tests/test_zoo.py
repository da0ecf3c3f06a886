"""Published weights are fetched once, whole and checked, from a server that may misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from pytest import LogCaptureFixture, MonkeyPatch

import nanogfl
from nanogfl.errors import DownloadError, UsageError
from nanogfl.model import zoo
from nanogfl.model.published import PUBLISHED, PublishedFile

with zipfile.ZipFile(zipped := io.BytesIO(), "w") as archive:
    archive.writestr("archive/data.pkl", b"w" * 600_000)  # more than two of the chunks that are read at once
WEIGHTS = zipped.getvalue()
LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e") + b"\x80\x02M\xe9\x03." * 50
HOME_CACHE = Path.home() / ".cache" / "nanogfl"
HTML = b"\n<!DOCTYPE html><html><body>Sign in to the guest network</body></html>"
FILE = "nanodet-plus-m_416_checkpoint.ckpt"
HASHED = PublishedFile("http://nowhere.invalid/w.pth", hashlib.sha256(WEIGHTS).hexdigest()[:10], "m")
UNHASHED = PublishedFile("http://nowhere.invalid/w.pth", None, "m")


class Answer(NamedTuple):
    """The body is cut to `sent` bytes, its length claimed to be `length` (-1: none); status 0 hangs up at once."""

    body: bytes = WEIGHTS
    status: int = 200
    sent: int | None = None
    length: int | None = None
    location: str = ""


class Server(ThreadingHTTPServer):
    """Gives its answers in turn, the last one for ever, and notes the paths it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = [Answer()]
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/files"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        answer = self.server.answers[min(len(self.server.asked), len(self.server.answers) - 1)]
        self.server.asked.append(self.path)
        if answer.status == 0:
            return
        self.send_response(answer.status)
        if answer.length != -1:
            self.send_header("Content-Length", str(answer.length or len(answer.body)))
        self.send_header("Location", answer.location)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # who has read the claimed length may be gone before the rest
            self.wfile.write(answer.body[: answer.sent])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: MonkeyPatch) -> Iterator[Server]:
    with Server() as served:
        monkeypatch.setenv("NANOGFL_MIRROR", served.url)
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield served
        served.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    """An own cache folder, and no proxy between the test and its server."""
    monkeypatch.setenv("NANOGFL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("NANOGFL_MIRROR", raising=False)
    return tmp_path / "cache"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


RELEASE = "https://github.com/RangiLyu/nanodet/releases/download/v1.0.0-alpha-1/"
TORCHVISION = "https://download.pytorch.org/models/"
NAMES = [
    ("nanodet-plus-m_320", "m", "m", RELEASE + "nanodet-plus-m_320_checkpoint.ckpt"),
    ("m_416", "s", "m", RELEASE + FILE),  # a detector says its own size
    ("m-1.5x_320", "m", "l", RELEASE + "nanodet-plus-m-1.5x_320_checkpoint.ckpt"),
    ("m-1.5x_416", "l", "l", RELEASE + "nanodet-plus-m-1.5x_416_checkpoint.ckpt"),
    ("imagenet", "s", "s", TORCHVISION + "shufflenetv2_x0.5-f707e7126e.pth"),
    ("imagenet", "m", "m", TORCHVISION + "shufflenetv2_x1-5666bf0f80.pth"),
    ("imagenet-l", "s", "l", TORCHVISION + "shufflenetv2_x1_5-3c479a10.pth"),  # a named size wins
    ("imagenet", "resnet18", "s", TORCHVISION + "resnet18-f37072fd.pth"),
    ("imagenet", "resnet34", "m", TORCHVISION + "resnet34-b627a593.pth"),
    ("imagenet-resnet50", "m", "l", TORCHVISION + "resnet50-0676ba61.pth"),
]


@pytest.mark.parametrize(("name", "size", "fits", "url"), NAMES)
def test_a_name_means_one_published_file(name: str, size: str, fits: str, url: str) -> None:
    entry = zoo.lookup(name, size)
    assert (entry.url, entry.size, entry.file_name) == (url, fits, url.split("/")[-1])
    assert {other.url for other in PUBLISHED.values()} == {row[3] for row in NAMES}


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        pytest.param("m_461", "m", "did you mean m_416?", id="two digits swapped"),
        pytest.param("nanodet-plus-m_41", "m", "did you mean m_416?", id="full name, a digit left out"),
        pytest.param("imagnet", "m", "did you mean imagenet?", id="a letter left out"),
        pytest.param("runs/best.ckpt", "m", "available: imagenet, nanodet-plus-m_320,", id="no such path"),
        pytest.param("imagenet", "xl", "size 'xl' has no ImageNet backbone", id="a size that does not exist"),
    ],
)
def test_an_unknown_name_is_a_usage_error(name: str, size: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        zoo.resolve(name, size)
    assert said in str(caught.value)


def test_an_existing_file_is_returned_as_it_is(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m_416").write_bytes(b"mine")
    assert zoo.resolve("m_416") == Path("m_416")


def test_a_file_is_fetched_once_and_whole(server: Server, cache: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("NANOGFL_MIRROR", server.url + "/")
    assert zoo.resolve("m_416").read_bytes() == zoo.resolve("nanodet-plus-m_416").read_bytes() == WEIGHTS
    assert (server.asked, files(cache)) == ([f"/files/{FILE}"], [FILE])


@pytest.mark.parametrize(
    ("entry", "answers"),
    [
        pytest.param(HASHED, [Answer(sent=300_000), Answer()], id="broke off halfway once"),
        pytest.param(HASHED, [Answer(sent=0), Answer(sent=9), Answer(status=0), Answer()], id="broke off thrice"),
        pytest.param(UNHASHED, [Answer(status=503), Answer(status=429), Answer()], id="too busy twice"),
        pytest.param(UNHASHED, [Answer(length=-1)], id="no length told"),
        pytest.param(UNHASHED, [Answer(body=LEGACY)], id="a file of before torch 1.6"),
        pytest.param(UNHASHED, [Answer(b"", 302, location="/there"), Answer()], id="redirected"),
    ],
)
def test_the_last_answer_is_kept(server: Server, cache: Path, entry: PublishedFile, answers: list[Answer]) -> None:
    server.answers = answers
    assert zoo.fetch(entry).read_bytes() == answers[-1].body
    assert (len(server.asked), files(cache)) == (len(answers), ["w.pth"])


@pytest.mark.parametrize(
    ("entry", "answer", "asked", "said"),
    [
        pytest.param(UNHASHED, Answer(sent=300_000), 4, "was lost after 300000 of", id="always breaks off"),
        pytest.param(HASHED, Answer(length=len(WEIGHTS) + 5), 4, "was lost after", id="claims more than it sends"),
        pytest.param(HASHED, Answer(length=400_000), 1, ", expected ", id="claims less, digest known"),
        pytest.param(UNHASHED, Answer(length=400_000), 1, "neither a complete zip", id="claims less, digest unknown"),
        pytest.param(UNHASHED, Answer(length=-1, sent=400_000), 1, "neither a complete zip", id="cut, no length told"),
        pytest.param(HASHED, Answer(LEGACY), 1, ", expected ", id="another file"),
        pytest.param(HASHED, Answer(HTML), 1, "web page", id="a login page"),
        pytest.param(UNHASHED, Answer(b""), 1, "neither a complete zip", id="nothing at all"),
        pytest.param(UNHASHED, Answer(HTML, 404), 1, "returned 404", id="not there"),
        pytest.param(UNHASHED, Answer(b"", 302, location="ftp://x/w"), 1, "ftp://x/w, not followed", id="to ftp"),
    ],
)
def test_refused(server: Server, cache: Path, entry: PublishedFile, answer: Answer, asked: int, said: str) -> None:
    server.answers = [answer]
    with pytest.raises(DownloadError) as caught:
        zoo.fetch(entry)
    assert str(caught.value).startswith(f"{server.url}/w.pth: ")
    assert said in str(caught.value)
    assert str(caught.value).endswith(f"download it manually and save it as {cache / 'w.pth'}")
    assert (len(server.asked), files(cache)) == (asked, [])


def test_offline_names_the_address_and_the_place(cache: Path, monkeypatch: MonkeyPatch) -> None:
    with Server() as gone:
        monkeypatch.setenv("NANOGFL_MIRROR", gone.url)
    with pytest.raises(DownloadError, match=f"^{gone.url}/{FILE}: no connection") as caught:
        zoo.resolve("m_416")
    assert str(caught.value).endswith(f"download it manually and save it as {cache / FILE}")
    assert files(cache) == []
    (cache / FILE).write_bytes(WEIGHTS)
    assert zoo.resolve("m_416") == cache / FILE


def test_an_interrupted_download_leaves_nothing(server: Server, cache: Path, monkeypatch: MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        assert len(files(cache)) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "_show_progress", interrupt)
    with pytest.raises(KeyboardInterrupt):
        zoo.fetch(HASHED)
    assert files(cache) == []


@pytest.mark.parametrize("entry,held,said", [(HASHED, WEIGHTS[1:], ", expected "), (UNHASHED, HTML, "web page")])
def test_a_spoiled_cached_file_is_refused(cache: Path, entry: PublishedFile, held: bytes, said: str) -> None:
    cache.mkdir()
    (cache / "w.pth").write_bytes(held)
    with pytest.raises(DownloadError, match=f"{said}.*; delete this file") as caught:
        zoo.fetch(entry)
    assert str(caught.value).startswith(f"{cache / 'w.pth'}: ")


def test_a_whole_file_of_another_network_is_refused_when_it_is_read(cache: Path, shared: Path) -> None:
    served = cache / "nanodet-plus-m-1.5x_416_checkpoint.ckpt"  # the smaller network under the larger one's name
    served.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(shared / "weights" / "nanodet-plus-m_416.ckpt", served)
    with pytest.raises(DownloadError, match=r"size m and 80 classes, .*1\.5x_416 has size l and 80; delete this file"):
        nanogfl.load("m-1.5x_416")
    shutil.copy(served, cache / FILE)
    assert nanogfl.load("m_416").input_size == (416, 416)
    shutil.copy(served, cache.parent / served.name)
    assert nanogfl.load(cache.parent / served.name).input_size == (416, 416)  # outside the cache names mean nothing


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("NANOGFL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DownloadError, match="set NANOGFL_CACHE to another folder"):
        zoo.fetch(HASHED)


@pytest.mark.parametrize("mirror", ["file:///srv", "ftp://host", "host/weights", "http://", "http://a b"])
def test_only_http_and_https(monkeypatch: MonkeyPatch, mirror: str) -> None:
    monkeypatch.setenv("NANOGFL_MIRROR", mirror)
    with pytest.raises(UsageError, match=r"^NANOGFL_MIRROR .* only http:// and https://"):
        zoo.resolve("m_416")


@pytest.mark.parametrize("ours,xdg,place", [("a", "b", "a"), ("", "b", "b/nanogfl"), ("", "", HOME_CACHE)])
def test_cache_folder(tmp_path: Path, monkeypatch: MonkeyPatch, ours: str, xdg: str, place: str | Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOGFL_CACHE", ours)
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    assert zoo.cache_folder() == tmp_path / place


def test_many_at_once_all_get_the_whole_file(server: Server, cache: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        paths = pool.map(lambda _: zoo.fetch(HASHED), range(6))
    assert ([path.read_bytes() for path in paths], files(cache)) == ([WEIGHTS] * 6, ["w.pth"])


@pytest.mark.parametrize("tty", [True, False])
def test_percents_shown(server: Server, monkeypatch: MonkeyPatch, caplog: LogCaptureFixture, tty: bool) -> None:
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
    monkeypatch.setattr(stderr, "isatty", lambda: tty)
    caplog.set_level(logging.INFO, "nanogfl.model.zoo")
    path = zoo.fetch(HASHED)
    assert caplog.messages == [f"downloading {server.url}/w.pth to {path}", f"downloaded {path}, 0.6 MB"]
    assert stderr.getvalue() == (f"w.pth:  43 %\rw.pth:  87 %\r{' ' * 12}\r" if tty else "")
