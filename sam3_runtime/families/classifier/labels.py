"""The names of a classifier's classes, and labelled image folders."""

from __future__ import annotations

import difflib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple, TypeVar

from sam3_runtime.core.errors import RecordError, SourceError
from sam3_runtime.core.hints import rebuild_hint
from sam3_runtime.core.source_files import IMAGE_SUFFIXES, ImageSource, by_suffix
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.sources import load_image


@dataclass(frozen=True)
class Labels:
    """``names`` [K] for people ("tench, Tinca tinca"), and ImageNet's ``synsets`` [K] if known."""

    names: Sequence[str]
    synsets: Sequence[str] | None = None

    def to_json(self) -> bytes:
        """Return the content of ``labels.json``."""
        return (json.dumps({"labels": list(self.names), "synsets": self.synsets}, ensure_ascii=False) + "\n").encode()

    def index_of(self, text: str) -> int:
        """Return the index of the class ``text``: a synset, a name or one of its synonyms, or an index.

        Raises :class:`SourceError` if it names no class, or several.
        """
        found = self._known.get(text.strip().casefold(), ())
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(map(str, found))
            raise SourceError(f"{text!r} names several classes: {several}", "use the index, or the synset")
        if text.isdecimal() and int(text) < len(self.names):
            return int(text)
        near = difflib.get_close_matches(text.casefold(), self._known, 3)
        indices = f"use a name, a synset, or an index from 0 to {len(self.names) - 1}"
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else indices
        raise SourceError(f"{text!r} names none of the {len(self.names)} classes", hint)

    @cached_property
    def _known(self) -> Mapping[str, Sequence[int]]:
        """Class indices by name; a synonym is used if it is not the whole name of another class."""
        whole: dict[str, list[int]] = defaultdict(list)
        synonyms: dict[str, list[int]] = defaultdict(list)
        for index, name in enumerate(self.names):
            whole[name.casefold()].append(index)
            for word in {word.strip().casefold() for word in name.split(",")} - {name.casefold()}:
                synonyms[word].append(index)
        return synonyms | whole | {synset: [index] for index, synset in enumerate(self.synsets or ())}


def read_labels(path: Path, classes: int) -> Labels:
    """Read ``labels.json``. Raises :class:`RecordError` if it is missing, damaged, or of another number of classes."""
    try:
        content = json.loads(path.read_bytes())
        labels = Labels(content["labels"], content["synsets"])
        sizes = {len(labels.names), classes if labels.synsets is None else len(labels.synsets)}
        if not all(isinstance(name, str) for name in (*labels.names, *(labels.synsets or ()))):
            raise TypeError("a label is not text")
    except FileNotFoundError:
        raise RecordError(f"{path} is missing", rebuild_hint(path)) from None
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is damaged: {error}", rebuild_hint(path)) from None
    if sizes != {classes}:
        raise RecordError(f"{path} names {len(labels.names)} classes, the model has {classes}", rebuild_hint(path))
    return labels


class Labelled(NamedTuple):
    """An image file, and the index of its class."""

    path: Path
    truth: int

    @property
    def name(self) -> str:
        """The folder and name of the file."""
        return f"{self.path.parent.name}/{self.path.name}"


Listed = TypeVar("Listed", Labelled, ImageSource)


def load_all(listed: Iterable[Listed], problem: Callable[[SourceError], object]) -> list[tuple[Listed, Image]]:
    """Read images; return the readable ones with their entries, and call ``problem`` with the errors of the others."""
    read = []
    for one in listed:
        try:
            read.append((one, load_image(one.path)))
        except SourceError as error:
            problem(error)
    return read


def read_labelled(folder: Path, labels: Labels, limit: int | None = None) -> list[Labelled]:
    """Return the images of a labelled folder, ``folder/<class>/<image>``; at most ``limit``, the classes in turn.

    Raises :class:`SourceError` if the folder is missing, has no images, or a folder in it names no class.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder", "name one that contains a folder of images for each class")
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    by_class = [
        [Labelled(path, truth) for path in by_suffix(one.iterdir(), IMAGE_SUFFIXES)[0]]
        for one in inside
        if (truth := labels.index_of(one.name)) >= 0
    ]
    if not any(by_class):
        raise SourceError(f"{folder} contains no folder of images", f"suffixes: {', '.join(IMAGE_SUFFIXES)}")
    in_turn = (one for row in zip_longest(*by_class) for one in row if one is not None)
    return list(islice(in_turn, limit))
