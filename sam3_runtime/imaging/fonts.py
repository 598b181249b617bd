"""Rasterizes label text, each character in the first font that contains it.

Order: the font packages of the extra ``fonts``, the fonts of the system, and the font inside OpenCV 5 (Latin, Cyrillic,
Chinese, Japanese, Korean and more), which works in a container without fonts. Other characters are drawn as a box.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

Coverage = NDArray[np.uint8]
"""[height, width]: how much of each pixel is covered by text, 0 to 255."""

FONT_PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")
SYSTEM_FOLDERS = (
    *("/usr/share/fonts", "/usr/local/share/fonts", "$XDG_DATA_HOME/fonts", "~/.local/share/fonts", "~/.fonts"),
    *("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    *("$WINDIR/Fonts", "$LOCALAPPDATA/Microsoft/Windows/Fonts"),
)
_PREFERRED = ("notosans", "dejavusans", "segoeui", "arial", "helvetica", "liberationsans")
_PLACEHOLDERS = ("lastresort", "adobeblank", "adobenotdef")  # fonts with a meaningless glyph for every character
_WEIGHT = 600  # of variable fonts: between regular and bold
_PROBE_SIZE = 24  # pixels
_NONCHARACTER = "\U0010ffff"
_HEIGHT, _BASELINE = 1.4, 1.08  # of a line, as shares of the font size: room for accents and descenders
_SPACE = 0.27  # width of a space between two fonts, likewise


@lru_cache(4096)
def coverage(text: str, size: int) -> Coverage:
    """Rasterize ``text`` in one line, ``size`` pixels to the em; the height depends on ``size`` alone."""
    line = np.zeros((round(size * _HEIGHT), 0), np.uint8)
    return np.hstack([line, *(_rasterize(run, font, size) for run, font in _runs(_plain(text)))])


def missing_glyphs(text: str) -> str:
    """Return the characters of ``text`` that no font contains, each once."""
    chars = dict.fromkeys(char for char in _plain(text) if not _is_combining(char))
    return "".join(char for char in chars if _font_of(char) is None and not _in_opencv(char))


def glyph_warning(texts: Iterable[str]) -> str | None:
    """Return the message about characters of ``texts`` that no font contains; None where there are none."""
    missing = missing_glyphs("".join(texts))
    if not missing:
        return None
    return (
        f"no font here has {' '.join(missing)}: labels show a box instead\n"
        "Hint: pip install manimgx-fonts manimgx-fonts-cjk, or install another font that has it"
    )


def _plain(text: str) -> str:
    """``text`` in one line, without control characters; joiners remain where Pillow can shape text."""
    joiners = "\u200c\u200d" if features.check("raqm") else ""
    return "".join(
        char
        for char in " ".join(unicodedata.normalize("NFC", text).split())
        if char in joiners or not ("\ufe00" <= char <= "\ufe0f" or unicodedata.category(char) in ("Cc", "Cf", "Cs"))
    )


def _is_combining(char: str) -> bool:
    """Whether ``char`` is drawn with the character before it: a space, an accent, a joiner."""
    return char == " " or unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf")


def _runs(text: str) -> Iterator[tuple[str, Path | None]]:
    """Pieces of ``text`` of one font each. Spaces do not split a run, so right-to-left phrases stay in order."""
    fonts: list[Path | None] = []
    for char in text:
        fonts.append(fonts[-1] if fonts and _is_combining(char) else _font_of(char))
    for font, pairs in groupby(zip(fonts, text, strict=True), lambda pair: pair[0]):
        yield "".join(char for _, char in pairs), font


def _rasterize(run: str, path: Path | None, size: int) -> Coverage:
    height, baseline = round(size * _HEIGHT), round(size * _BASELINE)
    words = run.rstrip(" ")  # a font of symbols may have no space
    font = _opened(path, size) if path else None
    if font is None and all(char == " " or _in_opencv(char) for char in words):
        drawn = _rasterize_with_opencv(words, size)
    else:
        chosen = font or ImageFont.load_default(size)  # draws a box
        line = Image.new("L", (max(1, round(chosen.getlength(words))), height))
        ImageDraw.Draw(line).text((0, baseline), words, 255, chosen, anchor="ls")
        drawn = np.asarray(line)
    return np.pad(drawn, ((0, 0), (0, round(size * _SPACE) if run != words else 0)))


# --- which font contains a character ----------------------------------------------------------------------------------


@cache
def _font_of(char: str) -> Path | None:
    return next((path for path in _fonts() if _contains(path, char)), None)


def _contains(path: Path, char: str) -> bool:
    font = _opened(path, _PROBE_SIZE)
    if font is None:
        return False
    glyph, box = font.getmask(char), font.getmask(_NONCHARACTER)
    # A glyph without ink may be one in colours, which is not drawn.
    return bool(glyph.getbbox()) and (glyph.size, bytes(glyph)) != (box.size, bytes(box))


@lru_cache(256)
def _opened(path: Path, size: int) -> ImageFont.FreeTypeFont | None:
    """Return a font, variable ones at the weight of labels; None if the file is damaged or lacks this size."""
    try:
        font = ImageFont.truetype(str(path), size)
    except OSError:
        return None
    try:
        axes = font.get_variation_axes()
    except (OSError, NotImplementedError):
        return font
    font.set_variation_by_axes([_WEIGHT if axis["name"] == b"Weight" else axis["default"] or 0 for axis in axes])
    return font


@cache
def _fonts() -> tuple[Path, ...]:
    """Return the installed font files, in the order in which they are tried."""
    packages = [Path(spec.origin).parent for name in FONT_PACKAGES if (spec := find_spec(name)) and spec.origin]
    system = [Path(os.path.expandvars(folder)).expanduser() for folder in SYSTEM_FOLDERS]
    ranked = []
    for folder in (*packages, *system):
        for path in folder.rglob("*.[ot]t[fc]") if folder.is_dir() else ():
            name = path.name.lower()
            rank = next((rank for rank, known in enumerate(_PREFERRED) if name.startswith(known)), len(_PREFERRED))
            if not name.startswith(_PLACEHOLDERS):
                ranked.append((folder not in packages, rank, len(name), name, path))
    return tuple(path for *_, path in sorted(ranked))


# --- the font inside OpenCV -------------------------------------------------------------------------------------------


def _rasterize_with_opencv(text: str, size: int) -> Coverage:
    face, start = cv2.FontFace("uni"), (0, round(size * _BASELINE))
    (width, _), _ = cv2.putText(np.zeros((1, 1), np.uint8), text, start, 255, face, size, _WEIGHT)
    line = np.zeros((round(size * _HEIGHT), max(1, width)), np.uint8)
    cv2.putText(line, text, start, 255, face, size, _WEIGHT)
    return line


@cache
def _in_opencv(char: str) -> bool:
    if not hasattr(cv2, "FontFace"):  # OpenCV 4
        return False
    unknown = _rasterize_with_opencv("?", _PROBE_SIZE)  # also drawn for characters that the font does not contain
    return char == "?" or not np.array_equal(_rasterize_with_opencv(char, _PROBE_SIZE), unknown)
