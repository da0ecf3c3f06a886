"""Fuzzing of annotation readers, recipes and ONNX metadata, for the night: FUZZ_SECONDS=600 pytest tests/fuzz.py.

Not collected by a plain pytest. Each of the three has that many seconds, the kinds of annotation files share theirs;
what fails is written, as small as hypothesis makes it, to tests/seeds, which tests/test_seeds.py replays.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hostile import PLACES, Model, annotations_hold, metadata_holds, prepare, recipe_holds

from nanogfl.recipe import folder, load_recipe, to_dict

hypothesis = pytest.importorskip("hypothesis", reason="pip install hypothesis")
st = hypothesis.strategies

SEEDS = Path(__file__).parent / "seeds"
SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
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


@st.composite
def spoilt_metadata(draw: Any, clean: dict[str, str]) -> bytes:
    """A card of a model with values replaced, spoilt inside, removed, or of names that nobody knows."""
    card = dict(clean)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(clean)))
        whole = isinstance(_parsed(clean[name]), dict | list)
        inside = spoilt_json(clean[name].encode()) if whole else spoilt_text(clean[name].encode())
        value = draw(st.one_of(words, numbers.map(lambda n: str(n)[:400]), plain.map(_dumped), inside, st.none()))
        if value is None:
            card.pop(name, None)
        else:
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            card[draw(st.sampled_from([name, name, name, f"nanogfl.{name}", "x"]))] = text
    return json.dumps(card).encode()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _dumped(value: Any) -> str:
    return json.dumps(value)


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

    def check(data: bytes, number: int) -> None:
        annotations_hold(file, data, root, doctor=number % 8 == 0)  # the doctor decodes all pictures each time

    fuzz(kind, MAKERS[kind](file.read_bytes()), check, SECONDS / len(PLACES))


def test_recipes_stand_anything(tmp_path: Path) -> None:
    clean = b"\n".join(path.read_bytes() for path in sorted(folder().glob("nanodet-plus-m_416.yaml")))
    known = json.dumps(to_dict(load_recipe()))
    made = st.one_of(spoilt_text(clean), spoilt_json(known.encode()), spoilt_json(known.encode()))
    fuzz("recipe", made, lambda data, _: recipe_holds(tmp_path / "recipe.yaml", data), SECONDS)


def test_models_stand_any_metadata(tmp_path: Path) -> None:
    model = Model(tmp_path)
    fuzz("metadata", spoilt_metadata(model.card), lambda data, _: metadata_holds(model, data), SECONDS)


def fuzz(kind: str, made: Any, check: Callable[[bytes, int], None], seconds: float) -> None:
    """Check what is made until the time is over; the smallest that fails is kept as a seed."""
    end, rounds = inf, 0
    failed: list[bytes] = []

    @hypothesis.settings(
        max_examples=ROUNDS, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(made)
    def one(data: bytes) -> None:
        nonlocal rounds, end
        end = min(end, time.monotonic() + seconds)  # from the first case on: hypothesis takes its time to start
        if time.monotonic() > end and not failed:
            raise KeyboardInterrupt  # the only way to end hypothesis early without a failure
        rounds += 1
        try:
            check(data, rounds)
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
