"""HTTP connections with timeouts: the head of a request has a total deadline, even if its bytes keep arriving."""

from __future__ import annotations

import io
import math
import time
from http.server import BaseHTTPRequestHandler
from socket import socket
from typing import Any

PIECE = 1 << 16  # bytes sent at a time
HEAD_SECONDS = 30.0  # limit for the head of a request, from the start of waiting for it


class TimeoutStream(io.RawIOBase):
    """The input of a connection as a raw stream, to be wrapped in a ``BufferedReader``.

    Attributes:
        deadline: time of ``time.monotonic()`` at which reads fail; each read also waits for ``silence_s`` at most.
    """

    def __init__(self, connection: socket, silence_s: float) -> None:
        super().__init__()
        self.deadline = math.inf
        self._connection, self._silence = connection, silence_s

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the bytes available into the buffer; return their number.

        Raises:
            TimeoutError: the deadline has passed, or no bytes arrived in time.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("too slow")
        self._connection.settimeout(min(left, self._silence))
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(self._silence)  # the timeout for sending responses


class TimeoutHandler(BaseHTTPRequestHandler):
    """The handler of a connection, which is closed if the head of a request does not arrive in time."""

    timeout: float = 15  # seconds without data; for a response, seconds per piece

    def setup(self) -> None:
        """Replace the input stream with one whose reads time out."""
        super().setup()
        self.rfile.close()
        self.stream = TimeoutStream(self.connection, self.timeout)
        self.rfile = io.BufferedReader(self.stream)

    def handle_one_request(self) -> None:
        """Handle one request; its head must arrive within HEAD_SECONDS."""
        self.stream.deadline = time.monotonic() + HEAD_SECONDS
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Parse the head, then remove its deadline."""
        parsed = super().parse_request()
        self.stream.deadline = math.inf
        return parsed

    def send_body(self, content: bytes) -> None:
        """Send the body of a response in pieces, since the timeout would count for the whole of it."""
        for start in range(0, len(content), PIECE):
            self.wfile.write(content[start : start + PIECE])

    def handle_expect_100(self) -> bool:
        """Send no "100 Continue" yet: it is sent when the body will be read, and never before a refusal."""
        return True
