"""Reading of text files in the encodings that common editors write."""

from __future__ import annotations

import codecs
from pathlib import Path


def read_text(path: Path) -> str:
    """Read UTF-8 with or without a BOM, or UTF-16 with one (written by PowerShell); normalise line ends to line feeds.

    Raises:
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    coding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    return data.decode(coding, "replace").replace("\r\n", "\n").replace("\r", "\n")
