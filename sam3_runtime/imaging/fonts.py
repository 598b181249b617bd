"""Text as pixels: each character in the first font that has it.

Fonts are looked for in the packages of the extra ``fonts``, then among those of the system, those meant for labels
first. What none has is drawn with the font inside OpenCV 5 (Latin, Cyrillic, Chinese, Japanese, Korean and more), so
that it is there in a container without fonts too; what that has not either is an empty box. Knows no image.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

Coverage = NDArray[np.uint8]
"""[height, width]: 255 where a pixel is all text, 0 where it is none."""

FONT_PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")
_PREFERRED = (
    *("notosans[", "notosans-semibold", "notosans-bold", "notosans-regular", "dejavusans-bold", "dejavusans"),
    *("segoeuib", "segoeui", "arialbd", "arial", "helvetica", "liberationsans-bold", "ubuntu-b"),
    *("notosanscjk", "notosanssc", "notosansjp", "notosanskr", "wqy", "droidsansfallback", "msyh", "meiryo", "malgun"),
    *("hiragino", "pingfang", "applesdgothic", "notoemoji", "seguisym", "seguiemj", "symbola", "notosanssymbols"),
    "notosans",
)
"""What the names of fonts begin with that are good for labels, best first."""
_EVERYTHING = ("lastresort", "adobeblank", "adobenotdef")
"""Fonts that have a picture for every character, and mean none."""
_SUFFIXES = (".ttf", ".otf", ".ttc")
_WEIGHT = 600  # of variable fonts: between regular and bold
_PROBED = 24  # pixels at which it is seen whether a font has a character
_NONCHARACTER = "\U0010ffff"
_HEIGHT, _BASELINE = 1.4, 1.08  # of a line, as shares of the font's size: accents fit above, descenders below
_SPACE = 0.27


@lru_cache(4096)
def coverage(text: str, size: int) -> Coverage:
    """``text`` at ``size`` pixels to the em, one line, as high as every other text of that size."""
    line = np.zeros((round(size * _HEIGHT), 0), np.uint8)
    return np.hstack([line, *(_drawn(run, font, size) for run, font in _runs(_plain(text)))])


def without_glyph(text: str) -> str:
    """The characters of ``text`` that no font here has, each once."""
    asked = dict.fromkeys(char for char in _plain(text) if not _goes_with_others(char))
    return "".join(char for char in asked if _font_of(char) is None and not _in_opencv(char))


def boxes_in(texts: Iterable[str]) -> str | None:
    """For people, where labels of ``texts`` show boxes: for which characters, and what brings a font that has them."""
    missing = without_glyph("".join(texts))
    if not missing:
        return None
    return (
        f"no font here has {' '.join(missing)}: labels show a box in its place\n"
        "Hint: pip install manimgx-fonts manimgx-fonts-cjk, or install another font that has it"
    )


def _plain(text: str) -> str:
    """``text`` in one line, without what only tells a renderer how to draw the character before."""
    words = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(char for char in words if not _is_hint(char))


def _is_hint(char: str) -> bool:
    joins = char in "\u200c\u200d" and features.check("raqm")
    return not joins and ("\ufe00" <= char <= "\ufe0f" or unicodedata.category(char) in ("Cc", "Cf", "Cs"))


def _runs(text: str) -> Iterator[tuple[str, Path | None]]:
    """Pieces of ``text`` of one font each, and the spaces between those of two. What changes the character before it
    goes with that, and a space with its neighbours: a phrase written from right to left stays in order."""
    run, font = "", None
    for char in text:
        if run and _goes_with_others(char):
            run += char
            continue
        found = _font_of(char)
        if run and found != font:
            yield run.rstrip(" "), font
            if run.endswith(" "):
                yield " ", None
            run = ""
        run, font = run + char, found
    if run:
        yield run, font


def _goes_with_others(char: str) -> bool:
    """A space, an accent, a joiner."""
    return char == " " or unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf")


def _drawn(run: str, path: Path | None, size: int) -> Coverage:
    height, baseline = round(size * _HEIGHT), round(size * _BASELINE)
    if run == " ":
        return np.zeros((height, round(size * _SPACE)), np.uint8)
    font = _opened(path, size) if path else None
    if font is None and all(char == " " or _in_opencv(char) for char in run):
        return _drawn_by_opencv(run, size)
    chosen = font or ImageFont.load_default(size)  # Pillow's own; its box for what it has not
    line = Image.new("L", (max(1, round(chosen.getlength(run))), height))
    ImageDraw.Draw(line).text((0, baseline), run, 255, chosen, anchor="ls")
    return np.asarray(line)


# --- which font has a character ---------------------------------------------------------------------------------------


@cache
def _font_of(char: str) -> Path | None:
    return next((path for path in _fonts() if _has(path, char)), None)


def _has(path: Path, char: str) -> bool:
    font = _opened(path, _PROBED)
    if font is None:
        return False
    mask = font.getmask(char)
    if not mask.getbbox():
        return char.isspace()  # a picture in colours, or nothing at all
    return (mask.size, bytes(mask)) != _box_of(path)


@cache
def _box_of(path: Path) -> tuple[tuple[int, int], bytes]:
    """What a font draws for what it has not."""
    font = _opened(path, _PROBED)
    assert font is not None
    mask = font.getmask(_NONCHARACTER)
    return mask.size, bytes(mask)


@lru_cache(256)
def _opened(path: Path, size: int) -> ImageFont.FreeTypeFont | None:
    """A font, variable ones at the weight of labels; None where it has no such size, or is damaged."""
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
    """The files of fonts that there are, in the order in which they are asked."""
    packaged = [Path(spec.origin).parent for name in FONT_PACKAGES if (spec := find_spec(name)) and spec.origin]
    ranked = []
    for place, folder in enumerate([*packaged, *map(Path, _system_folders())]):
        for path in folder.rglob("*") if folder.is_dir() else ():
            name = path.name.lower()
            if path.suffix.lower() in _SUFFIXES and not name.startswith(_EVERYTHING):
                rank = next((rank for rank, known in enumerate(_PREFERRED) if name.startswith(known)), len(_PREFERRED))
                ranked.append((place >= len(packaged), rank, name, path))
    return tuple(path for *_, path in sorted(ranked))


def _system_folders() -> list[str]:
    home = str(Path.home())
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", home)
        return [f"{os.environ.get('WINDIR', 'C:/Windows')}/Fonts", f"{local}/Microsoft/Windows/Fonts"]
    if sys.platform == "darwin":
        return ["/System/Library/Fonts", "/Library/Fonts", f"{home}/Library/Fonts"]
    data = os.environ.get("XDG_DATA_HOME", f"{home}/.local/share")
    return ["/usr/share/fonts", "/usr/local/share/fonts", f"{data}/fonts", f"{home}/.fonts"]


# --- the font inside OpenCV -------------------------------------------------------------------------------------------


def _drawn_by_opencv(text: str, size: int) -> Coverage:
    face, start = cv2.FontFace("uni"), (0, round(size * _BASELINE))
    (width, _), _ = cv2.putText(np.zeros((1, 1), np.uint8), text, start, 255, face, size, _WEIGHT)
    line = np.zeros((round(size * _HEIGHT), max(1, width)), np.uint8)
    cv2.putText(line, text, start, 255, face, size, _WEIGHT)
    return line


@cache
def _in_opencv(char: str) -> bool:
    """OpenCV draws a question mark for what it has not."""
    if not hasattr(cv2, "FontFace"):  # OpenCV 4 has no such font
        return False
    return char == "?" or not np.array_equal(_drawn_by_opencv(char, _PROBED), _drawn_by_opencv("?", _PROBED))
