"""Each character is drawn in the first font that contains it. The fonts are made here, as those of machines differ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from sam3_runtime.imaging import fonts
from sam3_runtime.imaging.fonts import coverage, missing_glyphs


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """What was seen of one set of fonts holds for no other."""
    known = (fonts.coverage, fonts._font_of, fonts._opened, fonts._fonts)
    for one in known:
        one.cache_clear()
    yield
    for one in known:
        one.cache_clear()


def bar(width: int, height: int) -> object:
    pen = TTGlyphPen(None)
    for place, point in enumerate(((50, 0), (50, height), (50 + width, height), (50 + width, 0))):
        (pen.lineTo if place else pen.moveTo)(point)
    pen.closePath()
    return pen.glyph()


def write_font(path: Path, characters: str, height: int = 700, blank: str = "") -> Path:
    """A font that draws a bar of ``height`` for each of ``characters``, and nothing for those that are ``blank``."""
    names = {char: f"g{ord(char):x}" for char in characters + blank}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap({ord(char): name for char, name in names.items()})
    glyphs = {names[char]: bar(300, height) for char in characters}
    glyphs |= {names[char]: TTGlyphPen(None).glyph() for char in blank}
    builder.setupGlyf({".notdef": bar(100, 400), **glyphs})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", *names.values()), (500, 50)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)
    return path


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The one folder that fonts are looked for in."""
    monkeypatch.setattr(fonts, "FONT_PACKAGES", ())
    monkeypatch.setattr(fonts, "SYSTEM_FOLDERS", (str(tmp_path / "fonts"), "$NONE/none"))
    return tmp_path / "fonts"


def runs(text: str) -> list[tuple[str, str]]:
    return [(run, path.stem if path else "") for run, path in fonts._runs(fonts._plain(text))]


def test_a_character_comes_from_the_first_font_that_has_it(only: Path) -> None:
    write_font(only / "a/DejaVuSans.ttf", "abc 0")
    write_font(only / "Symbola.ttf", "abc⭐")
    write_font(only / "LastResort.otf", "abc⭐☃")
    (only / "NotoSans-Bold.ttf").write_bytes(b"damaged")
    assert [path.name for path in fonts._fonts()] == ["NotoSans-Bold.ttf", "DejaVuSans.ttf", "Symbola.ttf"]
    assert runs("ab ⭐ c 0") == [("ab ", "DejaVuSans"), ("⭐ ", "Symbola"), ("c 0", "DejaVuSans")]
    assert missing_glyphs("a⭐") == ""
    assert missing_glyphs("☂ a ☂") == "☂"


def test_a_glyph_without_ink_counts_as_none(only: Path) -> None:
    """As in fonts of coloured pictures alone."""
    write_font(only / "NotoEmoji.ttf", "a", blank="⭐")
    write_font(only / "zzz.ttf", "⭐", height=500)
    assert runs("⭐a") == [("⭐", "zzz"), ("a", "NotoEmoji")]


def test_what_is_drawn_is_the_glyph(only: Path) -> None:
    write_font(only / "one.ttf", "ab")
    write_font(only / "two.ttf", "⭐", height=350)
    line = coverage("a⭐", 100)
    assert line.shape == (140, 100)
    assert line[60, 20] == 255, "a bar of 70 pixels on the baseline"
    assert (line[60, 50:] == 0).all()
    assert line[90, 70] == 255, "one of 35"
    assert coverage("", 100).shape == (140, 0)


@pytest.mark.parametrize("hint", ["\ufe0f", "\n", "\u202e", "\u200b", "\x07", "\udce9"])
def test_what_is_no_character_leaves_nothing(only: Path, hint: str) -> None:
    write_font(only / "one.ttf", "ab ")
    assert np.array_equal(coverage(f"a{hint}b", 30), coverage("a b" if hint == "\n" else "ab", 30))
    assert missing_glyphs(f"a{hint}b") == ""


def test_accents_are_one_with_their_letters(only: Path) -> None:
    write_font(only / "one.ttf", "aé\u0301")
    assert np.array_equal(coverage("e\u0301", 30), coverage("é", 30))


@pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="OpenCV 4 has no font for every script")
@pytest.mark.usefixtures("only")
def test_without_any_font_opencvs_is_used() -> None:
    assert missing_glyphs("汽车 Tür Ж?") == ""
    assert not np.array_equal(coverage("汽", 30), coverage("车", 30))
    assert coverage("汽车", 30).shape[1] > coverage("汽", 30).shape[1]
    assert missing_glyphs("⭐") == "⭐"


@pytest.mark.usefixtures("only")
def test_a_character_that_no_font_has_is_a_box() -> None:
    box, other = coverage("⭐", 30), coverage("\U0001f697", 30)
    assert np.array_equal(box, other)
    assert box.any()


def test_the_extra_has_what_people_name_things_by() -> None:
    pytest.importorskip("manimgx_fonts")
    assert missing_glyphs("⭐ 🚗 Tür Ж Ω é سيارة รถ कार 👩‍🚒 ❤️") == ""
