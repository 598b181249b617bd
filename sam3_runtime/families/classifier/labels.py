"""What the classes are called, and the labelled folders that say which picture shows which. Knows no engine."""

from __future__ import annotations

import difflib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple, TypeVar

from sam3_runtime.core.errors import RecordError, SourceError
from sam3_runtime.core.hints import rebuild_hint
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.source_files import IMAGE_SUFFIXES, ImageSource, by_suffix
from sam3_runtime.media.sources import load_image


@dataclass(frozen=True)
class Labels:
    """``names`` [K] as people read them ("tench, Tinca tinca"), and ImageNet's ``synsets`` [K] where they are known."""

    names: Sequence[str]
    synsets: Sequence[str] | None = None

    def to_json(self) -> bytes:
        return (json.dumps({"labels": list(self.names), "synsets": self.synsets}, ensure_ascii=False) + "\n").encode()

    def index_of(self, text: str) -> int:
        """The class that ``text`` means: a synset, a name or one of its synonyms, or an index.

        :class:`SourceError` where no class is called so, or several are.
        """
        found = self._known.get(text.strip().casefold(), ())
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(map(str, found))
            raise SourceError(f"{text!r} may be any of the classes {several}", "use the index, or the synset")
        if text.isdecimal() and int(text) < len(self.names):
            return int(text)
        near = difflib.get_close_matches(text.casefold(), self._known, 3)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?" if near else f"or an index from 0 to {len(self.names) - 1}"
        )
        raise SourceError(f"{text!r} is none of the {len(self.names)} classes", hint)

    @cached_property
    def _known(self) -> Mapping[str, Sequence[int]]:
        """By what a class may be called; a synonym counts where it is nobody's whole name."""
        whole: dict[str, list[int]] = defaultdict(list)
        synonyms: dict[str, list[int]] = defaultdict(list)
        for index, name in enumerate(self.names):
            whole[name.casefold()].append(index)
            for word in {word.strip().casefold() for word in name.split(",")} - {name.casefold()}:
                synonyms[word].append(index)
        return synonyms | whole | {synset: [index] for index, synset in enumerate(self.synsets or ())}


def read_labels(path: Path, classes: int) -> Labels:
    """Read ``labels.json``; :class:`RecordError` when it is missing, damaged, or not of that many classes."""
    try:
        content = json.loads(path.read_bytes())
        labels = Labels(content["labels"], content["synsets"])
        sizes = {len(labels.names), classes if labels.synsets is None else len(labels.synsets)}
        if not all(isinstance(name, str) for name in (*labels.names, *(labels.synsets or ()))):
            raise TypeError("a label that is no text")
    except FileNotFoundError:
        raise RecordError(f"{path} is missing", rebuild_hint(path)) from None
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is damaged: {error}", rebuild_hint(path)) from None
    if sizes != {classes}:
        raise RecordError(f"{path} names {len(labels.names)} classes, the model has {classes}", rebuild_hint(path))
    return labels


class Labelled(NamedTuple):
    """A picture, and the index of the class that it shows."""

    path: Path
    truth: int

    @property
    def name(self) -> str:
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
    """The pictures of a labelled folder, ``folder/<class>/<picture>``; the first ``limit`` of them, spread evenly over
    the classes.

    :class:`SourceError` for a folder that is not there, is called like no class, or holds no picture.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder} is no folder", "name one that holds a folder of pictures for each class")
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    by_class = [
        [Labelled(path, truth) for path in by_suffix(one.iterdir(), IMAGE_SUFFIXES)[0]]
        for one in inside
        if (truth := labels.index_of(one.name)) >= 0
    ]
    if not any(by_class):
        raise SourceError(f"{folder} holds no folder of pictures", f"suffixes: {', '.join(IMAGE_SUFFIXES)}")
    return list(islice(_in_turns(by_class), limit))


def _in_turns(by_class: Sequence[Sequence[Labelled]]) -> Iterator[Labelled]:
    """The first of each class, then the second of each."""
    for row in zip_longest(*by_class):
        yield from (one for one in row if one is not None)
