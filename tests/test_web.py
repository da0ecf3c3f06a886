"""``nanogfl web``: what is served, what is refused and how, one queue before the model, and the runtime's download."""

from __future__ import annotations

import base64
import errno
import hashlib
import http.client
import io
import json
import logging
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from models import scene, write_models
from servers import running

import nanogfl
from nanogfl.deploy.build import Form, build
from nanogfl.errors import DataError, DownloadError, ModelError, NanogflError, UsageError
from nanogfl.predictor import TorchDetector
from nanogfl.runtime import http_timeout, serve, web
from nanogfl.runtime.serve import MAX_BYTES, MAX_CONNECTIONS, MAX_UPLOADS, MAX_WAITING, TYPES, Server
from nanogfl.runtime.web import Place, address_here, open_server, page_folder, runtime_files

PAGE = page_folder()
PIN = json.loads((PAGE / "runtime.json").read_text())
PNG = "image/png"


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx, best.ckpt, and a cache whose runtime files are only names; nobody writes here."""
    folder = tmp_path_factory.mktemp("web")
    write_models(folder, (64, 64))
    (folder / "ort" / PIN["version"]).mkdir(parents=True)
    for name in PIN["sha256"]:
        (folder / "ort" / PIN["version"] / name).write_bytes(b"not the real one")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with running(open_server(folder / "model.onnx", Place(port=0), folder)) as server:
        yield server


def ask(server: Any, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture)[1].tobytes()


# --- files ---


@pytest.mark.parametrize("file", sorted(p.name for p in PAGE.iterdir() if p.suffix in TYPES))
def test_every_file_of_the_page_is_served(file: str, server: Server) -> None:
    answer = ask(server, "GET", f"/{file}")
    assert answer.status == 200 and answer.body == (PAGE / file).read_bytes()
    assert answer.headers["Content-Type"] == TYPES[Path(file).suffix]


def test_the_page_stands_at_the_root(server: Server) -> None:
    answer = ask(server, "GET", "/?from=phone")
    assert answer.body == (PAGE / "index.html").read_bytes()
    assert answer.headers["Content-Type"].startswith("text/html")


def test_runtime_files_have_the_types_that_browsers_ask_for(server: Server) -> None:
    types = {
        name: ask(server, "HEAD", f"/ort/{PIN['version']}/{name}").headers["Content-Type"] for name in PIN["sha256"]
    }
    assert types[PIN["wasm"]] == "application/wasm"
    assert types[PIN["script"]].startswith("text/javascript")


@pytest.mark.parametrize("path", ["/", "/app.js", "/health", "/nothing", "/model.onnx"])
def test_every_answer_isolates_the_page(path: str, server: Server) -> None:
    headers = ask(server, "GET", path).headers
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin", "no other page may use it"
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-cache", "a browser asks whether its copy is the last one"
    assert headers["Server"].strip() == "nanogfl", "and not which Python it is"


def test_the_model_comes_whole_and_with_its_name(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "Möbel; 2.onnx"
    shutil.copy(folder / "model.onnx", model)
    with running(open_server(model, Place(port=0), folder)) as server:
        answer = ask(server, "GET", "/model.onnx")
    assert answer.body == model.read_bytes()
    assert answer.headers["Content-Disposition"] == "inline; filename*=UTF-8''M%C3%B6bel%3B%202.onnx"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file's name is Unicode")
def test_a_model_whose_name_is_not_utf8(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / os.fsdecode(b"caf\xe9.onnx")
    shutil.copy(folder / "model.onnx", model)
    with running(open_server(model, Place(port=0), folder)) as server:
        assert ask(server, "GET", "/health").json["model"] == "caf?.onnx"
        answer = ask(server, "GET", "/model.onnx")
    assert answer.body == model.read_bytes()
    assert answer.headers["Content-Disposition"] == "inline; filename*=UTF-8''caf%3F.onnx"


def test_a_slow_reader_gets_the_whole_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeout counts for a piece: the whole may take many times as long."""
    monkeypatch.setattr(http_timeout.TimeoutHandler, "timeout", 0.5)
    big = tmp_path / "big.js"
    big.write_bytes(b"0123456789abcdef" * (1 << 20))
    with running(open_server(folder / "model.onnx", Place(port=0), folder)) as server:
        server.site = replace(server.site, files={"/big.js": big})
        with socket.create_connection(server.server_address[:2], timeout=10) as client:
            client.sendall(b"GET /big.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            arrived = bytearray()
            while piece := client.recv(1 << 17):
                arrived += piece
                time.sleep(0.02)
    assert arrived.endswith(big.read_bytes())


def test_what_the_browser_has_is_not_sent_again(server: Server) -> None:
    first = ask(server, "GET", "/app.js")
    again = ask(server, "GET", "/app.js", If_None_Match=first.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    assert ask(server, "GET", "/app.js", If_None_Match='"old"').status == 200


def test_a_file_that_changed_is_sent_again(folder: Path, tmp_path: Path) -> None:
    """Also where only its time tells, or only its size."""
    model = tmp_path / "model.onnx"
    shutil.copy(folder / "model.onnx", model)
    content, time_ns = model.read_bytes(), model.stat().st_mtime_ns
    with running(open_server(model, Place(port=0), folder)) as server:
        for changed, when in ((content, time_ns + 10**9), (content + b"x", time_ns)):
            os.utime(model, ns=(time_ns, time_ns))
            tag = ask(server, "GET", "/model.onnx").headers["ETag"]
            same = ask(server, "GET", "/model.onnx", If_None_Match=tag)
            assert same.status == 304 and same.headers["ETag"] == tag
            model.write_bytes(changed)
            os.utime(model, ns=(when, when))
            answer = ask(server, "GET", "/model.onnx", If_None_Match=tag)
            assert answer.status == 200 and answer.body == changed and answer.headers["ETag"] != tag
            model.write_bytes(content)
        model.unlink()
        gone = ask(server, "GET", "/model.onnx")
        assert gone.status == 404 and gone.json == {"error": "model.onnx: No such file or directory"}


def test_an_address_may_be_written_in_percent(server: Server) -> None:
    assert ask(server, "GET", "/%61pp%2Ejs").body == (PAGE / "app.js").read_bytes()


def test_head_has_no_body_and_the_connection_goes_on(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    for method, size in [("HEAD", 0), ("GET", (PAGE / "app.js").stat().st_size), ("HEAD", 0)]:
        connection.request(method, "/app.js")
        response = connection.getresponse()
        assert response.status == 200 and len(response.read()) == size
    connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "/../../pyproject.toml",
        "/..%2f..%2fpyproject.toml",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/app.js/../fetch_runtime.py",
        "/fetch_runtime.py",
        "/ort/../fetch_runtime.py",
        "/..\\..\\pyproject.toml",
        "/app.js%00.png",
        "/ort",
        "/ort/",
        "/%ff%fe",
        "/" + "a" * 2000,
    ],
)
def test_nothing_else_is_reachable(path: str, server: Server) -> None:
    answer = ask(server, "GET", path)
    assert answer.status == 404 and "does not exist" in answer.json["error"]


def test_health(server: Server) -> None:
    answer = ask(server, "GET", "/health")
    expected = {"status": "ok", "model": "model.onnx", "classes": ["red", "green", "blue"], "input_size": [64, 64]}
    assert answer.status == 200 and answer.json == expected


# --- POST /predict ---


def test_predict_finds_what_the_model_finds(server: Server, folder: Path) -> None:
    picture = scene(seed=3)
    answer = ask(server, "POST", "/predict?score=0.1", png(picture), Content_Type=PNG)
    expected = nanogfl.load(folder / "model.onnx").predict(picture, 0.1)
    assert answer.status == 200 and len(expected) > 3
    assert answer.json["detections"] == list(expected.records())
    assert (answer.json["width"], answer.json["height"]) == (160, 120) and answer.json["ms"] > 0


def test_the_score_is_a_third_where_none_is_given(server: Server) -> None:
    body = png(scene(seed=3))
    plain, asked = (ask(server, "POST", f"/predict{q}", body, Content_Type=PNG) for q in ("", "?score=0.3"))
    assert plain.json["detections"] == asked.json["detections"]


def test_what_the_detector_chokes_on_is_said_and_does_not_end_the_server(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def choke(*_: object) -> None:
        raise RuntimeError("what only the terminal is to see")

    with monkeypatch.context() as patch:
        patch.setattr(server.site.detector, "predict", choke)
        answer = ask(server, "POST", "/predict", png(scene()), Content_Type=PNG)
    assert answer.status == 500
    assert answer.json == {"error": "the detector failed (RuntimeError); try another picture"}
    assert caplog.messages == ["RuntimeError: what only the terminal is to see"]
    assert ask(server, "POST", "/predict", png(scene()), Content_Type=PNG).status == 200


def test_a_visitor_who_is_gone_is_no_line_on_the_terminal(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def gone(_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "nanogfl"):
        patch.setattr(serve.Handler, "_get", gone)
        assert until_it_is_closed(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") == b"", "to whom?"
        while server.connections._value < MAX_CONNECTIONS:  # until its thread has ended
            time.sleep(0.01)
    with caplog.at_level(logging.INFO, "nanogfl"):
        assert ask(server, "GET", "/health").status == 200, "nor is one who stays"
        assert ask(server, "GET", "/nothing").status == 404
    assert caplog.messages == [] and capfd.readouterr() == ("", "")


def test_many_at_once_each_get_their_own_boxes(server: Server, folder: Path) -> None:
    detector = nanogfl.load(folder / "model.onnx")
    pictures = [scene(80 + 10 * i, 200 - 10 * i, seed=i) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda p: ask(server, "POST", "/predict", png(p), Content_Type=PNG), pictures * 3))
    taken = [(a.json, p) for a, p in zip(answers, pictures * 3, strict=True) if a.status == 200]
    assert {a.status for a in answers} <= {200, 503} and len(taken) >= 8
    assert all(found["detections"] == list(detector.predict(p).records()) for found, p in taken)


def test_where_eight_wait_the_next_is_asked_to_come_again(server: Server) -> None:
    body, places = png(scene()), MAX_WAITING + 1
    with ThreadPoolExecutor(places) as pool:
        with server.turn:  # a picture that takes long
            waiting = [pool.submit(ask, server, "POST", "/predict", body, Content_Type=PNG) for _ in range(places)]
            deadline = time.monotonic() + 60
            while server.places._value and time.monotonic() < deadline:
                time.sleep(0.01)
            last = ask(server, "POST", "/predict", body, Content_Type=PNG)
            assert ask(server, "GET", "/health").status == 200
        assert [w.result().status for w in waiting] == [200] * places
    assert last.status == 503 and last.headers["Retry-After"] == "1" and "try again" in last.json["error"]
    assert ask(server, "POST", "/predict", body, Content_Type=PNG).status == 200


def test_uploads_that_say_nothing_keep_nobody_from_the_detector(server: Server) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n\r\n"
    with ExitStack() as silent:
        for _ in range(MAX_WAITING + 2):
            silent.enter_context(socket.create_connection(server.server_address[:2])).sendall(head)
        time.sleep(0.3)
        assert ask(server, "POST", "/predict", png(scene()), Content_Type=PNG).status == 200


def test_no_more_pictures_are_taken_in_than_memory_holds(folder: Path) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n\r\n"
    with running(open_server(folder / "model.onnx", Place(port=0), folder)) as server:
        with ExitStack() as silent:
            for _ in range(MAX_UPLOADS):
                silent.enter_context(socket.create_connection(server.server_address[:2])).sendall(head)
            deadline = time.monotonic() + 60
            while server.uploads._value and time.monotonic() < deadline:
                time.sleep(0.01)
            last = ask(server, "POST", "/predict", png(scene()), Content_Type=PNG)
            assert last.status == 503 and f"{MAX_UPLOADS} uploads are in progress" in last.json["error"]
        while server.uploads._value < MAX_UPLOADS and time.monotonic() < deadline:
            time.sleep(0.01)
        assert ask(server, "POST", "/predict", png(scene()), Content_Type=PNG).status == 200


def png_header(width: int, height: int) -> bytes:
    """A few bytes that promise a picture of any size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, pixels, b"IEND")
    )


REFUSED = [
    ("POST", "/predict", b"", {"Content_Type": PNG}, 400, "empty", "nothing sent"),
    (
        "POST",
        "/predict",
        b"no picture at all",
        {"Content_Type": PNG},
        415,
        "not a valid PNG, JPEG, WebP or BMP",
        "not a picture",
    ),
    ("POST", "/predict", b"GIF89a" + b"\0" * 99, {"Content_Type": "image/gif"}, 415, "convert", "a kind left out"),
    ("POST", "/predict", png(scene())[:60], {"Content_Type": PNG}, 400, "cannot decode", "cut short"),
    ("POST", "/predict", png_header(60000, 60000), {"Content_Type": PNG}, 413, "60000x60000", "a bomb"),
    ("POST", "/predict", png(scene()), {"Content_Type": "application/x-www-form-urlencoded"}, 415, "curl", "a form"),
    ("POST", "/predict", png(scene()), {"Content_Type": "multipart/form-data; boundary=x"}, 415, "raw bytes", "a form"),
    ("POST", "/predict", None, {"Content_Length": str(MAX_BYTES + 1)}, 413, str(MAX_BYTES), "too long, not read"),
    ("POST", "/predict", None, {"Content_Length": "-5"}, 411, "Content-Length", "no length"),
    ("POST", "/predict", None, {"Content_Length": "\u00b2"}, 411, "Content-Length", "a digit that is no number"),
    ("POST", "/predict", None, {"Content_Length": "9" * 5000}, 413, "send up to", "a number without end"),
    ("POST", "/predict", None, {"Transfer_Encoding": "chunked"}, 411, "Content-Length", "pieces of unknown length"),
    (
        "POST",
        "/predict",
        png(scene()),
        {"Content_Type": PNG, "Transfer_Encoding": "chunked", "Content_Length": str(len(png(scene())))},
        411,
        "in chunks",
        "two lengths",
    ),
    ("POST", "/predict", png(scene()), {"Sec_Fetch_Site": "cross-site"}, 403, "another site", "a foreign page"),
    ("POST", "/predict", png(scene()), {"Origin": "http://evil.example"}, 403, "evil.example", "an older browser"),
    ("POST", "/predict", png(scene()), {"Origin": "http://["}, 403, "http://[", "no address"),
    ("POST", "/predict", png(scene()), {"Origin": "null"}, 403, "null", "a page without a name"),
    ("POST", "/predict?score=2", png(scene()), {"Content_Type": PNG}, 400, "between 0 and 1", "score above 1"),
    ("POST", "/predict?score=nan", png(scene()), {"Content_Type": PNG}, 400, "'nan'", "no number"),
    ("POST", "/predict?score=x", png(scene()), {"Content_Type": PNG}, 400, "'x'", "no number"),
    (
        "POST",
        "/predict?conf=.5",
        png(scene()),
        {"Content_Type": PNG},
        400,
        "unknown parameter 'conf'",
        "another's name",
    ),
    ("POST", "/app.js", png(scene()), {"Content_Type": PNG}, 405, "/predict", "not a place to post"),
    ("POST", "/other", png(scene()), {"Content_Type": PNG}, 404, "/predict", "no such place"),
    ("GET", "/predict", None, {}, 405, "POST a picture", "the other method"),
    ("PUT", "/predict", png(scene()), {"Content_Type": PNG}, 501, "PUT", "a method that is not there"),
    ("OPTIONS", "/predict", None, {"Origin": "https://evil.example"}, 501, "OPTIONS", "another site asks"),
]


@pytest.mark.parametrize(("method", "path", "body", "headers", "status", "words", "why"), REFUSED)
def test_what_is_refused_says_why(
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
    words: str,
    why: str,
    server: Server,
) -> None:
    answer = ask(server, method, path, body, **headers)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json"), why
    assert words in answer.json["error"] and "\n" not in answer.json["error"]
    assert ask(server, "POST", "/predict", png(scene()), Content_Type=PNG).status == 200, "and goes on"


def test_the_other_method_is_named(server: Server) -> None:
    assert ask(server, "GET", "/predict").headers["Allow"] == "POST"


def test_a_picture_may_have_twenty_megabytes_and_fifty_megapixels(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/web.md says; what is too large is said as width x height."""
    length = b"Content-Length: %d\r\n\r\n"
    assert talk(server, EXPECTS + length % (20 * 2**20)).startswith(CONTINUE + b"HTTP/1.1 408 ")
    assert talk(server, EXPECTS + length % (20 * 2**20 + 1)).startswith(b"HTTP/1.1 413 ")

    def decoded(*_: object) -> None:
        raise DataError("decoded")

    monkeypatch.setattr(serve, "decode_picture", decoded)
    for width, said in ((10_000, "decoded"), (10_001, "the picture has 10001x5000 px; send up to 50 million")):
        answer = ask(server, "POST", "/predict", png_header(width, 5000), Content_Type=PNG)
        assert answer.json["error"] == said


def test_pages_of_its_own_and_programs_may_ask(server: Server) -> None:
    own = f"127.0.0.1:{server.server_address[1]}"
    for headers in (
        {},
        {"Origin": f"http://{own}"},
        {"Origin": "https://a.tunnel", "Host": "a.tunnel"},
        {"Origin": "https://a.tunnel", "Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "none"},
    ):
        assert ask(server, "POST", "/predict", png(scene()), Content_Type=PNG, **headers).status == 200, headers
    assert ask(server, "GET", "/health", Sec_Fetch_Site="cross-site").status == 200, "a link to it"


@pytest.mark.parametrize("head", [b"Content-Length: %d", b"Transfer-Encoding: chunked\r\nX-Size: %d"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_the_body_of_a_get_is_no_request(server: Server, method: bytes, head: bytes) -> None:
    inner = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    request = method + b" /health HTTP/1.1\r\nHost: x\r\n" + head % len(inner) + b"\r\n\r\n" + inner
    answer = until_it_is_closed(server, request)
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.startswith(b"HTTP/1.1 200") and b"Connection: close" in answer


def until_it_is_closed(server: Any, sent: bytes) -> bytes:
    """All that the server says to this before it ends the connection itself."""
    with socket.create_connection(server.server_address[:2], timeout=10) as connection:
        connection.sendall(sent)
        answer = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                answer += piece
    return answer


@pytest.mark.parametrize(
    "head",
    [
        b"POST /predict HTTP/1.1\r\nOrigin: http://evil.example",
        b"POST /predict?score=2 HTTP/1.1\r\nContent-Type: image/png",
        b"POST /other HTTP/1.1\r\nContent-Type: image/png",
        b"POST /predict HTTP/1.1\r\nContent-Type: text/html",
    ],
)
def test_the_body_of_what_is_refused_is_no_request(server: Server, head: bytes) -> None:
    inner = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = until_it_is_closed(server, head + b"\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner)
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.startswith(b"HTTP/1.1 4") and b"Connection: close" in answer


def test_the_body_of_an_unknown_method_is_no_request(server: Server) -> None:
    inner = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = until_it_is_closed(server, b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner)
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.startswith(b"HTTP/1.1 501") and b"Connection: close" in answer


def test_a_bomb_is_never_decoded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "decode_picture", lambda *_: pytest.fail("decoded"))
    assert ask(server, "POST", "/predict", png_header(30000, 2000), Content_Type=PNG).status == 413


@pytest.mark.parametrize("sent", [b"", b"\x89PNG"])
def test_a_body_that_does_not_come_frees_its_place(
    server: Server, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve.Handler, "timeout", 0.1)
    with socket.create_connection(server.server_address[:2], timeout=60) as visitor:
        visitor.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\n" + sent
        )
        answer = visitor.makefile("rb").read()
    assert b" 408 " in answer.splitlines()[0] and f"only {len(sent)} of 99 bytes arrived".encode() in answer
    assert server.uploads._value == MAX_UPLOADS and server.places._value == MAX_WAITING + 1


def test_a_body_that_trickles_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "READ_SECONDS", 0.0)
    assert ask(server, "POST", "/predict", png(scene()), Content_Type=PNG).status == 408


def test_garbage_in_place_of_http_does_not_end_the_server(server: Server) -> None:
    for garbage in (
        b"\0\1\2\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n",
    ):
        talk(server, garbage)
    assert ask(server, "GET", "/health").status == 200


def talk(server: Any, sent: bytes) -> bytes:
    """All that the server says to this, until nothing more comes from either side."""
    with socket.create_connection(server.server_address[:2], timeout=60) as visitor:
        visitor.sendall(sent)
        visitor.shutdown(socket.SHUT_WR)
        return visitor.makefile("rb").read()


def test_a_head_that_trickles_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece comes in time, the whole does not."""
    monkeypatch.setattr(http_timeout, "HEAD_SECONDS", 0.5)
    with socket.create_connection(server.server_address[:2], timeout=60) as visitor:
        visitor.sendall(b"GET /health HTTP/1.1\r\nX: ")
        ended = time.monotonic() + 30
        with pytest.raises(OSError, match=r"reset|pipe"):
            while time.monotonic() < ended:
                visitor.sendall(b"a")
                time.sleep(0.05)
    assert ask(server, "GET", "/health").status == 200


def test_connections_have_an_end(folder: Path) -> None:
    """Silent ones take up places; who comes when all are taken is sent away, and there is room again when they go."""
    with running(open_server(folder / "model.onnx", Place(port=0), folder)) as server:
        server.connections = threading.BoundedSemaphore(2)
        with ExitStack() as silent:
            for _ in range(2):
                silent.enter_context(socket.create_connection(server.server_address[:2])).sendall(b"GET / HTTP/1.1\r\n")
            with pytest.raises((http.client.HTTPException, OSError)):
                ask(server, "GET", "/health")
        deadline = time.monotonic() + 30
        while server.connections._value < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert ask(server, "GET", "/health").status == 200
    assert MAX_CONNECTIONS >= 4 * MAX_UPLOADS, "uploads are refused in words first"


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EXPECTS = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nExpect: 100-continue\r\n"


def test_a_picture_is_asked_for_once_and_never_before_a_refusal(server: Server) -> None:
    picture = png(scene())
    taken = talk(server, EXPECTS + b"Content-Length: %d\r\n\r\n" % len(picture) + picture)
    assert taken.startswith(CONTINUE + b"HTTP/1.1 200 ") and taken.count(CONTINUE) == 1
    loud = talk(server, EXPECTS.replace(b"100-c", b"100-C") + b"Content-Length: %d\r\n\r\n" % len(picture) + picture)
    assert loud.startswith(CONTINUE + b"HTTP/1.1 200 ")
    assert talk(server, EXPECTS + b"Content-Length: 99999999\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    assert talk(server, EXPECTS.replace(b"/predict", b"/other") + b"\r\n").startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_an_address_that_is_none_is_the_visitors_fault(server: Server, method: bytes) -> None:
    said = talk(server, method + b" http://[ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400 ") and b"the address is malformed: " in said and b"detector" not in said


# --- starting ---


def test_a_port_that_is_taken(server: Server, folder: Path) -> None:
    port = server.server_address[1]
    with pytest.raises(NanogflError, match=rf"cannot listen on 127.0.0.1 port {port}: .*--port"):
        open_server(folder / "model.onnx", Place(port=int(port)), folder)


def test_a_port_is_never_shared_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec("nanogfl.runtime.serve")
    assert spec is not None and spec.loader is not None
    there = module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        spec.loader.exec_module(there)
    assert (there.Server.allow_reuse_address, Server.allow_reuse_address) == (False, os.name == "posix")


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)])
def test_whoever_lets_others_in_is_told_of_https(
    host: str, warned: bool, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "nanogfl"):
        open_server(folder / "model.onnx", Place(host, 0), folder).server_close()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
    assert not warned or all(word in caplog.text for word in ("https", "--cert", "mkcert", "adb reverse"))
    assert "tcp:0" not in caplog.text, "the port that was taken, not the 0 that asked for one"


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "a documentation address"),
        ("no.such.invalid", "no such name"),
        ("a..b", "no name at all"),
        ("ä..b", "a name that Python cannot code"),
        ("ä" * 80, "a name that Python cannot code"),
    ],
)
def test_a_host_that_is_not_here(host: str, reason: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError, match=rf"--host {host}: this machine has no such address .*use 127\.0\.0\.1"):
        open_server(folder / "model.onnx", Place(host, 0), folder)
    assert caplog.records == [], reason


@pytest.mark.parametrize("code", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_a_machine_without_such_addresses(code: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where IPv6 is switched off, ::1 is an address of an unknown kind."""

    def refuse(*_: object) -> None:
        raise OSError(code, "no such thing")

    monkeypatch.setattr("nanogfl.runtime.web.Server", refuse)
    with pytest.raises(UsageError, match=r"--host ::1: this machine has no such address \(no such thing\)"):
        open_server(folder / "model.onnx", Place("::1", 0), folder)


def test_a_port_that_no_machine_has(folder: Path) -> None:
    with pytest.raises(NanogflError, match=r"cannot listen on 127\.0\.0\.1 port 70000: .*choose another --port"):
        open_server(folder / "model.onnx", Place(port=70000), folder)


REACHED = "http://{}:{}/  from other devices"


@pytest.mark.parametrize(
    ("host", "here", "shown", "more"),
    [
        ("127.0.0.1", "192.0.2.7", "127.0.0.1", []),
        ("0.0.0.0", "192.0.2.7", "127.0.0.1", [REACHED]),
        ("0.0.0.0", "", "127.0.0.1", []),
        ("::1", "192.0.2.7", "[::1]", []),
        ("::", "192.0.2.7", "127.0.0.1", [REACHED]),
    ],
)
def test_the_addresses_that_are_said_can_be_typed(
    host: str, here: str, shown: str, more: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ":" in host and not ipv6():
        pytest.skip("this machine has no IPv6")
    said, ports = served(Place(host, 0), folder, here, monkeypatch)
    first = f"http://{shown}:{ports[0]}/  (model.onnx; Ctrl-C stops it)"
    assert said == [first, *(line.format(here, ports[0]) for line in more), "ended"]


def ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def served(place: Place, folder: Path, here: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[int]]:
    """What is said by a server on a machine of this address that is interrupted at once, and its port."""
    said: list[str] = []
    ports: list[int] = []

    def interrupted(server: Server) -> None:
        ports.append(server.server_address[1])
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupted)
    monkeypatch.setattr(web, "address_here", lambda: here)
    web.serve(folder / "model.onnx", place, folder, said.append)
    return said, ports


def test_the_address_here_is_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    if here := address_here():
        with socket.create_server((here, 0)) as listening:
            assert listening.getsockname()[0] == here, "nobody can listen at another's"

    class Unconnected(socket.socket):
        def connect(self, address: Any) -> None:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "socket", Unconnected)
    assert address_here() == ""


def test_the_command_listens_where_the_docs_say(
    folder: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Place] = []
    monkeypatch.setattr(web, "serve", lambda _model, place, _cache, _say: places.append(place))
    assert command("web", folder / "model.onnx").code == 0
    assert places == [Place()] == [Place("127.0.0.1", 8000, None, None)]


def test_the_missing_one_of_certificate_and_key_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").touch()
    (tmp_path / "folder.pem").mkdir()
    for cert, key, said in (
        ("cert", "key", "--key .*key.pem: no such file"),
        ("no", "cert", "--cert .*no.pem: no"),
        ("folder", "cert", "--cert .*folder.pem: no such file"),
    ):
        place = Place(port=0, cert=tmp_path / f"{cert}.pem", key=tmp_path / f"{key}.pem")
        with pytest.raises(UsageError, match=said):
            open_server(folder / "model.onnx", place, folder)


def test_a_suffix_in_capitals_is_the_same(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "model.onnx", tmp_path / "M.ONNX")
    assert nanogfl.load(tmp_path / "M.ONNX").names == ["red", "green", "blue"]
    with running(open_server(tmp_path / "M.ONNX", Place(port=0), folder)) as server:
        answer = ask(server, "GET", "/model.onnx")
    assert answer.status == 200 and answer.headers["Content-Disposition"] == "inline; filename*=UTF-8''M.ONNX"
    with pytest.raises(UsageError, match=r"run: nanogfl export"):
        open_server(tmp_path / "best.CKPT", Place(port=0), folder)


def test_models_that_a_browser_cannot_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nanogfl export .*best\.ckpt --out model\.onnx"):
        open_server(folder / "best.ckpt", Place(port=0), folder)
    for suffix in (".pth", ".pt"):
        with pytest.raises(UsageError, match=rf"run: nanogfl export .*best\{suffix} --out model\.onnx"):
            open_server(tmp_path / f"best{suffix}", Place(port=0), folder)
    with pytest.raises(ModelError, match="no such file; check the path"):
        open_server(tmp_path / "none.onnx", Place(port=0), folder)
    detector = nanogfl.load(folder / "best.ckpt")
    assert isinstance(detector, TorchDetector)
    with pytest.raises(UsageError, match=r"photo\.jpg: .* use an \.onnx file"):
        open_server(tmp_path / "photo.jpg", Place(port=0), folder)
    with pytest.raises(UsageError, match="requires a certificate"):
        open_server(folder / "model.onnx", Place(port=0, key=tmp_path / "key.pem"), folder)
    (tmp_path / "core.onnx").write_bytes(build(detector, Form("core")).SerializeToString())
    with pytest.raises(ModelError, match="form core; the page requires: nanogfl export --form frame"):
        open_server(tmp_path / "core.onnx", Place(port=0), folder)


def test_the_command_says_what_is_wrong(folder: Path, command: Callable[..., Any]) -> None:
    said = command("web", folder / "best.ckpt")
    assert said.code == 2 and said.err.startswith("error: ") and "nanogfl export" in said.err


def test_the_command_serves_until_it_is_interrupted(folder: Path, tmp_path: Path) -> None:
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # not so in a shell's background
    code = f"{heard}; from nanogfl.cli import main; main()"
    environment = {"NANOGFL_CACHE": str(folder), "PYTHONPATH": str(Path(nanogfl.__file__).parents[1]), "PATH": "/bin"}
    command = [sys.executable, "-u", "-c", code, "web", str(folder / "model.onnx"), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:") and "model.onnx" in line, process.communicate()
        port = int(line.split(":")[2].split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "ended\n", "")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_https(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-subj", "/CN=x"]
    subprocess.run(made, check=True, capture_output=True)
    place = Place("127.0.0.1", 0, cert, key)
    with running(open_server(folder / "model.onnx", place, folder)) as server:
        silent = socket.create_connection(server.server_address[:2])  # shakes no hands, and blocks nobody
        context = ssl.create_default_context(cafile=str(cert))
        context.check_hostname = False
        connection = http.client.HTTPSConnection("127.0.0.1", server.server_address[1], context=context, timeout=60)
        connection.request("GET", "/health")
        assert connection.getresponse().read().startswith(b'{"status": "ok"')
        connection.close()
        silent.close()
    with pytest.raises(UsageError, match=r"--cert .*PEM"):
        open_server(folder / "model.onnx", Place(port=0, cert=folder / "model.onnx"), folder)
    said, ports = served(place, folder, "", monkeypatch)
    assert said == [f"https://127.0.0.1:{ports[0]}/  (model.onnx; Ctrl-C stops it)", "ended"]


# --- the runtime's files ---


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a small npm registry serves, with one package in it; $NPM_REGISTRY points there."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    root = tmp_path / "registry"
    (root / "little" / "-").mkdir(parents=True)
    with tarfile.open(root / "little" / "-" / "little-1.2.3.tgz", "w:gz") as archive:
        for name in ("run.mjs", "run.wasm", "other.txt"):
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    with running(ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root))) as server:
        monkeypatch.setenv("NPM_REGISTRY", f"http://127.0.0.1:{server.server_address[1]}/")
        yield root


@pytest.fixture
def page(registry: Path, tmp_path: Path) -> Path:
    """A page's folder that pins this package and holds nothing of it."""
    package = (registry / "little" / "-" / "little-1.2.3.tgz").read_bytes()
    digest = base64.b64encode(hashlib.sha512(package).digest()).decode()
    pin = {
        "package": "little",
        "version": "1.2.3",
        "integrity": f"sha512-{digest}",
        "script": "run.mjs",
        "wasm": "run.wasm",
    }
    pin["sha256"] = {n: hashlib.sha256(n.encode()).hexdigest() for n in ("run.mjs", "run.wasm")}
    page = tmp_path / "page"
    page.mkdir()
    shutil.copy(PAGE / "fetch_runtime.py", page)
    (page / "runtime.json").write_text(json.dumps(pin))
    return page


def test_missing_runtime_files_are_fetched_once_and_checked(page: Path, registry: Path, tmp_path: Path) -> None:
    expected = {f"/ort/1.2.3/{name}": tmp_path / "cache/ort/1.2.3" / name for name in ("run.mjs", "run.wasm")}
    assert runtime_files(page, tmp_path / "cache") == expected
    assert {p.name: p.read_text() for p in (tmp_path / "cache/ort/1.2.3").iterdir()} == {
        n: n for n in ("run.mjs", "run.wasm")
    }
    shutil.rmtree(registry)
    assert runtime_files(page, tmp_path / "cache") == expected


def test_the_pages_own_runtime_files_come_first(page: Path, registry: Path, tmp_path: Path) -> None:
    shutil.rmtree(registry)
    for folder in (tmp_path / "cache", page):
        (folder / "ort/1.2.3").mkdir(parents=True)
        for name in ("run.mjs", "run.wasm"):
            (folder / "ort/1.2.3" / name).touch()
        expected = {f"/ort/1.2.3/{name}": folder / "ort/1.2.3" / name for name in ("run.mjs", "run.wasm")}
        assert runtime_files(page, tmp_path / "cache") == expected


def test_half_of_the_runtime_files_is_none(page: Path, tmp_path: Path) -> None:
    """As an interrupt may leave it."""
    runtime_files(page, tmp_path / "cache")
    (tmp_path / "cache/ort/1.2.3/run.wasm").unlink()
    made = runtime_files(page, tmp_path / "cache")
    assert made["/ort/1.2.3/run.wasm"].read_text() == "run.wasm"


@pytest.mark.parametrize(
    ("said", "why"), [("Traceback ...\n\n  of no use\nthe disk is full\n", "the disk is full"), ("", "no reason given")]
)
def test_the_last_word_of_what_fetches_is_the_reason(said: str, why: str, page: Path, tmp_path: Path) -> None:
    (page / "fetch_runtime.py").write_text(f"import sys\nsys.stderr.write({said!r})\nsys.exit(3)\n")
    with pytest.raises(DownloadError, match=f"onnxruntime-web 1.2.3 is missing, and fetching it failed: {why}$"):
        runtime_files(page, tmp_path / "cache")


def test_another_package_under_that_name_is_refused(page: Path, registry: Path, tmp_path: Path) -> None:
    (registry / "little" / "-" / "little-1.2.3.tgz").write_bytes(b"something else")
    with pytest.raises(DownloadError, match=r"little-1\.2\.3\.tgz is not the file that runtime.json pins"):
        runtime_files(page, tmp_path / "cache")
    assert not list(tmp_path.glob("cache/**/run.*"))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:1", "set NPM_REGISTRY to a mirror, or run it on a machine with network access$"),
        ("file:///etc", "is not an http address; set NPM_REGISTRY=https://"),
    ],
)
def test_a_registry_that_is_not_there(
    address: str, words: str, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NPM_REGISTRY", address)
    with pytest.raises(DownloadError, match=f"fetching it failed: .*{words}") as caught:
        runtime_files(page, tmp_path / "cache")
    assert "\n" not in str(caught.value)
