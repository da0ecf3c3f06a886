"""Self-contained HTML pages: titled sections of text, tables, tiles and inline pictures, in light and dark mode.

A ``str`` is text and is escaped; only ``Html``, which ``element`` creates, is markup. A page has no scripts, and its
content security policy forbids it to load anything.

::

    hero = tiles([("pictures", "364"), ("problems", "2")])
    boxes = Section("Boxes", [text("As annotated."), table(["class", "boxes"], [["RBC", 4155]])])
    write_page(Path("report.html"), "Data check", "bccd, Pascal VOC", [Section("Summary", [hero]), boxes])
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogfl.atomic import atomic_file

VOID = frozenset({"img", "meta"})  # without an end tag; in a drawing, what follows an open element is not shown
NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*")
UNPRINTABLE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u202a-\u202e\u2066-\u2069]")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
PICTURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class Html:
    """Markup that is safe to insert into a page."""

    markup: str


Content = Html | str | int | float


@dataclass(frozen=True)
class Section:
    """A titled part of a page; the items of ``content`` are placed one below the other."""

    title: str
    content: Sequence[Content]


def escaped(value: Content) -> str:
    """Return a value as markup: text is escaped, for attributes too, and unprintable characters are replaced."""
    if isinstance(value, Html):
        return value.markup
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return html.escape(UNPRINTABLE.sub("\ufffd", shown), quote=True)


def element(tag: str, *content: Content, **attributes: str | float) -> Html:
    """Return an element; ``class_`` becomes class, ``stroke_width`` stroke-width. Names must not come from data."""
    names = [name.rstrip("_").replace("_", "-") for name in attributes]
    if not all(map(NAME.fullmatch, (tag, *names))):
        raise ValueError(f"<{tag} {' '.join(names)}> is no name of an element and its attributes")
    own = "".join(f' {name}="{escaped(value)}"' for name, value in zip(names, attributes.values(), strict=True))
    inner = "".join(map(escaped, content))
    return Html(f"<{tag}{own}>" if tag in VOID and not inner else f"<{tag}{own}>{inner}</{tag}>")


def text(*parts: Content) -> Html:
    """Return a paragraph."""
    return element("p", *parts)


def code(value: str) -> Html:
    """Return a command, a file or a key in monospaced type."""
    return element("code", value)


def badge(word: str, tone: str = "plain") -> Html:
    """Return a word as a coloured badge; the tone is ``bad``, ``warn``, ``good`` or ``plain``."""
    return element("span", word, class_=f"badge {tone}")


def table(header: Sequence[str], rows: Iterable[Sequence[Content | None]]) -> Html:
    """Return a table; columns with numbers are right-aligned, ``None`` is shown as a dash."""
    listed = [list(row) for row in rows]
    classes = ["n" if any(isinstance(row[i], int | float) for row in listed) else "t" for i in range(len(header))]
    head = element("tr", *(element("th", name, class_=c) for name, c in zip(header, classes, strict=True)))
    body = [element("tr", *map(_cell, row, classes)) for row in listed]
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="scroll")


def _cell(value: Content | None, class_: str) -> Html:
    return element("td", "–" if value is None else value, class_=class_)


def tiles(entries: Iterable[tuple[str, Content]]) -> Html:
    """Return key figures in large type; each entry is (label, value)."""
    made = [element("div", element("b", value), element("span", label), class_="tile") for label, value in entries]
    return element("div", *made, class_="tiles")


def picture(data: bytes, caption: Content = "", alt: str = "", width: int | None = None) -> Html:
    """Return a PNG or JPEG embedded in the page, at most ``width`` px wide."""
    kind = next((kind for start, kind in PICTURES.items() if data.startswith(start)), None)
    if kind is None:
        raise ValueError("a picture in a page must be the bytes of a PNG or JPEG")
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    drawn = element("img", src=source, alt=alt, style=f"max-width:min(100%,{width}px)" if width else "max-width:100%")
    return element("figure", drawn, *([element("figcaption", caption)] if caption != "" else []))


def grid(items: Iterable[Html], least: int = 300) -> Html:
    """Return pictures or plots side by side, each at least ``least`` px wide."""
    return element("div", *items, class_="grid", style=f"--least:{least}px")


def folded(title: Content, *content: Content, unfolded: bool = False) -> Html:
    """Return content that a click on its title shows or hides; at first it is hidden unless ``unfolded``."""
    summary = element("summary", title)
    return element("details", summary, *content, open="") if unfolded else element("details", summary, *content)


def to_html(title: str, lead: Content, sections: Sequence[Section]) -> str:
    """Return the whole page as text."""
    anchors = [f"part{i}" for i in range(1, len(sections) + 1)]
    links = [element("a", s.title, href=f"#{a}") for s, a in zip(sections, anchors, strict=True)]
    parts = [
        element("section", element("h2", s.title), *s.content, id=a) for s, a in zip(sections, anchors, strict=True)
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    top = element("header", element("h1", title), element("p", lead), element("nav", *links))
    body = element("body", top, element("main", *parts))
    return f"<!doctype html>\n{element('html', head, body, lang='en').markup}\n"


def write_page(path: Path, title: str, lead: Content, sections: Sequence[Section]) -> None:
    """Write the page atomically; create parent folders."""
    with atomic_file(path) as partial:
        partial.write_text(to_html(title, lead, sections), encoding="utf-8")


STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #fff; --ink: #1b1f24; --soft: #5c6773; --line: #dde2e8;
  --accent: #0b6bcb; --bad: #b3261e; --warn: #8a5a00; --good: #1a7340; }
@media (prefers-color-scheme: dark) { :root { --paper: #111418; --card: #1a1f25; --ink: #e6eaee; --soft: #9aa5b1;
  --line: #2c333b; --accent: #6cb2ff; --bad: #ff8a80; --warn: #ffc95c; --good: #6fd694; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
header, main { max-width: 1160px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 32px; }
h1 { margin: 0; font-size: 28px; letter-spacing: -.01em; overflow-wrap: anywhere; }
header > p { margin: 4px 0 14px; color: var(--soft); overflow-wrap: anywhere; }
h2 { margin: 0 0 12px; font-size: 19px; }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; padding-bottom: 16px; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 20px;
  margin-bottom: 18px; }
section > p { max-width: 78ch; }
p { margin: 0 0 12px; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 12px; margin-bottom: 14px; }
.tile { border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px; }
.tile b { display: block; font-size: 24px; font-weight: 650; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
.tile span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; margin-bottom: 14px; }
table { border-collapse: collapse; font-size: 14px; min-width: 50%; }
th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { padding: 6px 24px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.t { overflow-wrap: anywhere; min-width: 9ch; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; }
code { font: 13px/1.4 ui-monospace, "SF Mono", Consolas, monospace; overflow-wrap: anywhere; }
.badge { display: inline-block; padding: 0 9px; border: 1px solid currentColor; border-radius: 99px; font-size: 12.5px;
  font-weight: 600; white-space: nowrap; color: var(--soft); margin-right: 6px; }
.bad { color: var(--bad); } .warn { color: var(--warn); } .good { color: var(--good); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--least)), 1fr)); gap: 16px;
  margin-bottom: 14px; }
figure { margin: 0; min-width: 0; }
figure img, figure svg { display: block; max-width: 100%; height: auto; border-radius: 6px; }
figcaption { margin-top: 5px; color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
details { border-top: 1px solid var(--line); padding: 10px 0; }
summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
details > :not(summary) { margin-top: 10px; }
svg text { fill: var(--soft); font: 12px system-ui, "Segoe UI", sans-serif; }
@media print { section { break-inside: avoid; } nav { display: none; } }
"""
