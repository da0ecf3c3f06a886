"""Refusals of the web server: an error with an HTTP status, and the checks that need only a request's head."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from urllib.parse import urlsplit


class RefusedError(Exception):
    """An error that is answered with a 4xx or 5xx; its message states what is wrong and what to do."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


@contextmanager
def slot(places: threading.BoundedSemaphore, taken: str) -> Iterator[None]:
    """Hold one of the places; raise RefusedError (503) at once if none is free."""
    if not places.acquire(blocking=False):
        raise RefusedError(503, f"{taken}; try again in a second", Retry_After="1")
    try:
        yield
    finally:
        places.release()


def check_asker(headers: Message) -> None:
    """Refuse requests that a browser sends for a page of another site; other programs do not send these headers."""
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    try:
        own = site in ("same-origin", "none") or origin is None or urlsplit(origin).netloc == headers.get("Host")
    except ValueError:  # no address
        own = False
    if site == "cross-site" or not own:
        raise RefusedError(403, f"pages of {origin or 'another site'} are refused; use this server's page")


def score_of(query: Mapping[str, list[str]]) -> float:
    """Return the score threshold of a query; 0.3 by default."""
    unknown = [name for name in query if name != "score"]
    if unknown:
        raise RefusedError(400, f"unknown parameter {unknown[0]!r}; score=0.3 is the threshold")
    text = query.get("score", ["0.3"])[-1]
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise RefusedError(400, f"score={text!r} must be between 0 and 1")
    return score
