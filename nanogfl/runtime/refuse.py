"""How the web server says no: a status, what is wrong, and what to do; and what is said no to by the head alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from urllib.parse import urlsplit


class RefusedError(Exception):
    """A request that is answered with a 4xx or 5xx; ``str`` says what is wrong and what to do."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


@contextmanager
def place(places: threading.BoundedSemaphore, taken: str) -> Iterator[None]:
    """One of the places, or a refusal at once."""
    if not places.acquire(blocking=False):
        raise RefusedError(503, f"{taken}; try again in a second", Retry_After="1")
    try:
        yield
    finally:
        places.release()


def check_asker(headers: Message) -> None:
    """Refuse what a page of another site asks in a visitor's browser; programs do not say who they are."""
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    own = site in ("same-origin", "none") or origin is None or urlsplit(origin).netloc == headers.get("Host")
    if site == "cross-site" or not own:
        raise RefusedError(403, f"a page of {origin or 'another site'} asks; only this server's own may")


def score_of(query: Mapping[str, list[str]]) -> float:
    """Read the threshold that an address asks for."""
    unknown = [name for name in query if name != "score"]
    if unknown:
        raise RefusedError(400, f"there is no {unknown[0]!r} to ask for; score=0.3 is the threshold")
    text = query.get("score", ["0.3"])[-1]
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise RefusedError(400, f"score={text!r} is not between 0 and 1")
    return score
