"""Fuzzing of the annotation readers, for the night: FUZZ_SECONDS=600 python -m pytest tests/fuzz_annotations.py.

Not collected by a plain pytest. Each kind of file has its share of the time; what fails is written, as small as
hypothesis makes it, to tests/seeds, where tests/test_seeds.py replays it from then on.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hostile import PLACES, holds, prepare

hypothesis = pytest.importorskip("hypothesis", reason="pip install hypothesis")
st = hypothesis.strategies

SEEDS = Path(__file__).parent / "seeds"
SECONDS = float(os.environ.get("FUZZ_SECONDS", "60")) / len(PLACES)
ROUNDS = 100_000_000  # the clock ends it

numbers = st.one_of(
    st.integers(-3, 3),
    st.floats(),
    st.integers(),
    st.sampled_from([10**9, 2**31, 2**63, 10**400, 1e308, 5e-324, 96, 64]),
)
words = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", "0", "1", "nan", "inf", "-1", "1_0", "1e999", "../outside.jpg", "a.jpg", "/etc/passwd", "NUL\0"]
    ),
)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def spoilt_json(draw: Any, clean: bytes) -> bytes:
    """A COCO json with some of its values replaced, removed or repeated, at any depth."""
    document = json.loads(clean)
    for _ in range(draw(st.integers(1, 4))):
        node: Any = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
                node = node[key]
                continue
            node[key] = draw(plain)
            break
    return json.dumps(document).encode("utf-8", "surrogatepass")


@st.composite
def spoilt_text(draw: Any, clean: bytes) -> bytes:
    """Pieces of a clean file cut out, repeated, or replaced by words, numbers and raw bytes."""
    data = clean
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 12)))
        new = draw(st.one_of(words.map(_encoded), numbers.map(lambda n: str(n)[:400].encode()), st.binary(max_size=6)))
        new *= draw(st.sampled_from([1, 1, 1, 2, 50]))
        data = data[:start] + new + data[stop:]
    return data


@st.composite
def label_lines(draw: Any, clean: bytes) -> bytes:
    """Lines of numbers and words, sometimes of the right length."""
    token = st.one_of(numbers.map(lambda n: str(n)[:400]), words, st.floats(-1, 2).map(str))
    lines = draw(st.lists(st.lists(token, max_size=9).map(" ".join), max_size=5))
    return clean + "\n".join(lines).encode("utf-8", "surrogatepass")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


MAKERS = {
    "coco": lambda clean: st.one_of(spoilt_json(clean), spoilt_text(clean)),
    "voc": spoilt_text,
    "list": spoilt_text,
    "labels": lambda clean: st.one_of(label_lines(clean), spoilt_text(clean)),
    "yaml": spoilt_text,
}


@pytest.mark.parametrize("kind", PLACES)
def test_the_readers_stand_anything(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    file = prepare(kind, root)
    clean, end, rounds = file.read_bytes(), inf, 0
    failed: list[bytes] = []

    @hypothesis.settings(
        max_examples=ROUNDS, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(MAKERS[kind](clean))
    def one(data: bytes) -> None:
        nonlocal rounds, end
        end = min(end, time.monotonic() + SECONDS)  # from the first case on: hypothesis takes its time to start
        if time.monotonic() > end and not failed:
            raise KeyboardInterrupt  # the only way to end hypothesis early without a failure
        rounds += 1
        try:
            holds(file, data, root, doctor=rounds % 8 == 0)  # the doctor decodes all pictures each time
        except Exception:
            failed.append(data)
            raise

    try:
        one()
    except KeyboardInterrupt:
        assert time.monotonic() > end
    finally:
        if failed:
            smallest = min(failed, key=len)
            (SEEDS / f"{kind}-{hashlib.sha256(smallest).hexdigest()[:8]}").write_bytes(smallest)
    assert rounds > 0
    print(f"{kind}: {rounds} rounds")  # noqa: T201
