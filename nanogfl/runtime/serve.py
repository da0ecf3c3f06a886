"""A small HTTP server: the page and its files from a fixed list, ``GET /health``, and ``POST /predict``."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET, AF_INET6, socket
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

import numpy as np

from nanogfl.errors import NanogflError
from nanogfl.pictures import decode_picture
from nanogfl.runtime.http_timeout import TimeoutHandler
from nanogfl.runtime.picture_size import picture_size
from nanogfl.runtime.refuse import RefusedError, check_asker, score_of, slot
from nanogfl.runtime.session import OnnxDetector

log = logging.getLogger(__name__)
MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 50_000_000  # the largest phone pictures; the network needs another 13 bytes per pixel
MAX_WAITING = 8  # pictures, in addition to the one in the model
MAX_UPLOADS = 32  # pictures received at the same time, each up to MAX_BYTES
MAX_CONNECTIONS = 128  # a browser opens up to six
READ_SECONDS = 30.0  # limit for receiving a picture
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
# The first three isolate the page in its own process; otherwise browsers do not allow WebAssembly threads.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
PICTURE_TYPES = ("image/", "application/octet-stream")


@dataclass(frozen=True)
class Site:
    """The content of the server: files by address, such as ``/app.js``, and the model that predicts."""

    files: Mapping[str, Path]
    detector: OnnxDetector


class Server(ThreadingHTTPServer):
    """An HTTP server with a thread for each connection and one queue for the model."""

    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # on Windows, two servers could listen on the same port

    def __init__(self, address: tuple[str, int], site: Site) -> None:
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        self.site, self.turn = site, threading.Lock()
        self.places = threading.BoundedSemaphore(MAX_WAITING + 1)
        self.uploads = threading.BoundedSemaphore(MAX_UPLOADS)
        self.connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread; if too many are open, close the connection without a response, which could block here."""
        if self.connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle the connection, then free its slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Log broken connections at debug level only: the client caused them."""
        log.debug("connection from %s ended early", client_address, exc_info=True)


class Handler(TimeoutHandler, BaseHTTPRequestHandler):  # the second base class only lets ruff accept do_GET
    """The handler of one connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "nanogfl", ""

    def do_GET(self) -> None:
        """Send the page, its files, or the state of the server."""
        self._answer(self._get)

    def do_HEAD(self) -> None:
        """Send the same as GET, without the body."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Send the detections in the posted picture."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log at debug level, so that the terminal shows no line for each request."""
        log.debug(format, *args)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send the errors that the standard library detects as JSON, too."""
        self.close_connection = True
        self._send_json(int(code), {"error": message or self.responses.get(code, ("refused",))[0]})

    def _answer(self, work: Callable[[], None]) -> None:
        try:
            work()
        except RefusedError as refused:
            self.close_connection = True  # part of the body may be unread
            self._send_json(refused.status, {"error": str(refused)}, refused.headers)
        except NanogflError as error:
            self._send_json(400, {"error": str(error)})
        except OSError:
            raise  # the client has disconnected
        except Exception as error:  # the client must get an answer if the runtime fails on its picture
            log.warning("%s: %s", type(error).__name__, error)
            self._send_json(500, {"error": f"the detector failed ({type(error).__name__}); try another picture"})

    def _get(self) -> None:
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # the body is not read, and must not be taken for the next request
        path = unquote(self._address().path)
        if path == "/health":
            detector = self.server.site.detector
            card = {"model": detector.path.name, "classes": detector.names, "input_size": list(detector.input_size)}
            self._send_json(200, {"status": "ok", **card})
            return
        file = self.server.site.files.get("/index.html" if path == "/" else path)
        if path == "/predict":
            raise RefusedError(405, "POST a picture here", Allow="POST")
        if file is None:
            raise RefusedError(404, f"{path} does not exist")
        self._send_file(file)

    def _post(self) -> None:
        check_asker(self.headers)
        address = self._address()
        if address.path != "/predict":
            raise RefusedError(404 if address.path not in self.server.site.files else 405, "POST pictures to /predict")
        score = score_of(parse_qs(address.query))
        length = self._length()
        with slot(self.server.uploads, f"{MAX_UPLOADS} uploads are in progress"):
            data = self._body(length)
        with slot(self.server.places, f"{MAX_WAITING} pictures are waiting"):
            found = self._predict(data, score)
        self._send_json(200, found)

    def _address(self) -> SplitResult:
        try:
            return urlsplit(self.path)
        except ValueError as error:
            raise RefusedError(400, f"the address is malformed: {error}") from error

    def _length(self) -> int:
        """Return the size of the picture in bytes from the headers."""
        kind = self.headers.get_content_type() if self.headers.get("Content-Type") else "image/"
        if not kind.startswith(PICTURE_TYPES):
            hint = "curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' .../predict"
            raise RefusedError(415, f"send the picture's raw bytes, not {kind}: {hint}")
        text = self.headers.get("Content-Length", "")
        if not (text.isascii() and text.isdigit()) or "Transfer-Encoding" in self.headers:
            raise RefusedError(411, "Content-Length must be the picture's size; do not send it in chunks")
        if len(text) > 12 or int(text) > MAX_BYTES:
            raise RefusedError(413, f"the picture has {text[:13]} bytes; send up to {MAX_BYTES}")
        if int(text) == 0:
            raise RefusedError(400, "the picture is empty; send its bytes as the body")
        return int(text)

    def _body(self, length: int) -> bytes:
        """Read the whole body; raise RefusedError if it arrives too slowly or not at all."""
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        data, deadline = bytearray(), time.monotonic() + READ_SECONDS
        while len(data) < length:
            try:
                piece = self.rfile.read1(min(1 << 16, length - len(data)))  # pyright: ignore[reportAttributeAccessIssue]
            except TimeoutError:
                piece = b""
            if not piece or time.monotonic() > deadline:
                raise RefusedError(408, f"only {len(data)} of {length} bytes arrived; send the picture again")
            data += piece
        return bytes(data)

    def _predict(self, data: bytes, score: float) -> dict[str, Any]:
        size = picture_size(data)
        if size is None:
            raise RefusedError(415, "not a valid PNG, JPEG, WebP or BMP picture; convert it")
        if size[0] * size[1] > MAX_PIXELS:
            raise RefusedError(413, f"the picture has {size[1]}x{size[0]} px; send up to {MAX_PIXELS // 10**6} million")
        with self.server.turn:
            picture = decode_picture(np.frombuffer(data, np.uint8), "that was sent")
            started = time.perf_counter()
            found = self.server.site.detector.predict(picture, score)
            ms = (time.perf_counter() - started) * 1000
        height, width = picture.shape[:2]
        return {"width": width, "height": height, "ms": round(ms, 2), "detections": list(found.records())}

    def _send_json(self, status: int, content: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(content, ensure_ascii=False).encode(errors="replace")
        head = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self._send_head(status, head | dict(headers or {}))
        if self.command != "HEAD":
            self.send_body(body)

    def _send_file(self, file: Path) -> None:
        """Send the file, or 304 if the browser already has it."""
        try:
            stat, content = file.stat(), file.read_bytes()
        except OSError as error:
            raise RefusedError(404, f"{file.name}: {error.strerror}") from error
        tag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
        if self.headers.get("If-None-Match") == tag:
            self._send_head(304, {"ETag": tag})
            return
        headers = {"Content-Type": TYPES[file.suffix.lower()], "Content-Length": str(len(content)), "ETag": tag}
        if file.suffix.lower() == ".onnx":
            headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(file.name, errors='replace')}"
        self._send_head(200, headers)
        if self.command != "HEAD":
            self.send_body(content)

    def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in (HEADERS | dict(headers)).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
