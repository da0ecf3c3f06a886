"""Requests of visitors who may be slow: the head has a deadline, however steadily its bytes trickle in."""

from __future__ import annotations

import io
import math
import time
from http.server import BaseHTTPRequestHandler
from socket import socket
from typing import Any

HEAD_SECONDS = 30.0  # for the head of a request, from when it is waited for


class Arriving(io.RawIOBase):
    """What a connection sends, to be read through a ``BufferedReader``.

    Attributes:
        deadline: when reads give up, on the clock of ``time.monotonic()``; a piece is waited for ``silence_s`` anyway.
    """

    def __init__(self, connection: socket, silence_s: float) -> None:
        super().__init__()
        self.deadline = math.inf
        self._connection, self._silence = connection, silence_s

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read one piece.

        Raises:
            TimeoutError: nothing came in time.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("too slow")
        self._connection.settimeout(min(left, self._silence))
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(self._silence)  # which holds for answers


class PatientHandler(BaseHTTPRequestHandler):
    """One connection, which ends where the head of a request does not come in time."""

    timeout: float = 15  # seconds of silence

    def setup(self) -> None:
        """Reads that end."""
        super().setup()
        self.rfile.close()
        self.arriving = Arriving(self.connection, self.timeout)
        self.rfile = io.BufferedReader(self.arriving)

    def handle_one_request(self) -> None:
        """Not longer than the head may take."""
        self.arriving.deadline = time.monotonic() + HEAD_SECONDS
        super().handle_one_request()

    def parse_request(self) -> bool:
        """The head is there."""
        parsed = super().parse_request()
        self.arriving.deadline = math.inf
        return parsed

    def handle_expect_100(self) -> bool:
        """Nothing yet: a picture is asked for when it will be taken, not before a refusal."""
        return True
