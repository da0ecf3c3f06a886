from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from nanogfl.page import (
    Html,
    Section,
    badge,
    code,
    element,
    folded,
    grid,
    picture,
    table,
    text,
    tiles,
    to_html,
    write_page,
)

HOSTILE = "</td><script>alert(1)</script><svg onload=alert(2)>\" onerror='x' &amp; \0\u202e\ud800"


class Seen(HTMLParser):
    """Tags, attributes and text of a page, as a browser would take them apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("img", "meta", "line", "rect", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def png(side: int = 4) -> bytes:
    return cv2.imencode(".png", np.zeros((side, side, 3), np.uint8))[1].tobytes()


def hostile_page() -> str:
    parts = [
        text("a", HOSTILE, code(HOSTILE)),
        badge(HOSTILE, HOSTILE),
        table([HOSTILE], [[HOSTILE], [None], [3], [0.123456]]),
        tiles([(HOSTILE, HOSTILE)]),
        grid([picture(png(), HOSTILE, HOSTILE)]),
        folded(HOSTILE, HOSTILE, unfolded=True),
        HOSTILE,
    ]
    return to_html(HOSTILE, HOSTILE, [Section(HOSTILE, parts)])


def test_what_follows_a_line_of_a_drawing_is_not_within_it() -> None:
    """A browser does not show it there: SVG has no elements that end by themselves."""
    drawing = element("svg", element("line", x1=1), element("text", "px"))
    assert drawing.markup == '<svg><line x1="1"></line><text>px</text></svg>'
    assert element("img", alt="").markup == '<img alt="">'


def test_nothing_that_is_given_as_text_becomes_markup() -> None:
    seen = Seen(hostile_page())
    assert not {"script", "svg"} & set(seen.tags)
    assert not {"onload", "onerror"} & seen.attributes
    assert seen.open == [], "every element is closed"
    assert seen.text.count("<script>alert(1)</script>") >= 10, "and all of it can be read"
    hostile_page().encode("utf-8")


def test_pictures_never_run_out_of_a_narrow_page() -> None:
    for width in (None, 640):
        (style,) = re.findall(r'style="max-width:([^"]+)"', picture(png(), width=width).markup)
        assert style == ("100%" if width is None else f"min(100%,{width}px)")


def test_the_page_loads_nothing() -> None:
    page = hostile_page()
    assert "default-src 'none'" in page.replace("&#x27;", "'")
    assert re.findall(r'(?:src|href)="(?!data:image/|#part)', page) == []
    assert "http" not in page.replace("http-equiv", "")


def test_numbers_stand_right_and_nothing_is_a_dash() -> None:
    cells = re.findall(r'<td class="(.)">([^<]*)</td>', table(["a"], [["x"], [None], [3], [0.123456]]).markup)
    assert cells == [("n", "x"), ("n", "–"), ("n", "3"), ("n", "0.1235")]
    assert '<td class="t">x</td>' in table(["a"], [["x"]]).markup


@pytest.mark.parametrize("tag", ["a b", "", "x>", "1a"])
def test_names_of_elements_are_names(tag: str) -> None:
    with pytest.raises(ValueError, match="no name of an element"):
        element(tag)


def test_only_real_pictures_are_pictures() -> None:
    assert 'src="data:image/png;base64,' in picture(png()).markup
    with pytest.raises(ValueError, match="PNG or JPEG"):
        picture(b"<svg onload=alert(1)>")


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "page.html"
    write_page(path, "Title", Html("<i>lead</i>"), [Section("Part", ["é"])])
    assert "<h1>Title</h1><p><i>lead</i></p>" in path.read_text("utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
