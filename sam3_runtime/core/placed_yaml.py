"""Reads YAML and remembers where every value stands, so that a message can name the line.

Turns what PyYAML and pydantic say into one error: file, line, key, value and fix. A :class:`Document` says which schema
a kind of file has and which error is raised about it. Pure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from sam3_runtime.core.errors import Sam3Error

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses what YAML 1.1 reads as another number than people do."""

    error: type[Sam3Error] = Sam3Error

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(node.value)
        value = super().construct_yaml_int(node)
        fixed = re.sub(r"^([-+]?)[0_]+(?=\d)", r"\1", text)
        if ":" in text or (fixed != text and "x" not in text and "b" not in text):
            number = "" if ":" in text else f", and {fixed} if it is a number"
            raise self.error(
                f"{self.name}:{node.start_mark.line + 1}: {text} is read as {value} in YAML",
                f"write {text!r} in quotes if it is text{number}",
            )
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)

Places = dict[tuple[str | int, ...], int]
_MOST_PLACES = 300_000
_MERGE = "tag:yaml.org,2002:merge"


def places_of(
    node: yaml.Node | None, path: tuple[str | int, ...] = (), inside: tuple[yaml.Node, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """Path and line number (from 1) of every value in the document, and behind it that of its key; those that a merge
    key takes over stand where they are written. A value ``inside`` itself comes once."""
    if node is None or node in inside:
        return
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from places_of(value, (*path, key.value), (*inside, node))
            yield (*path, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from places_of(value, (*path, index), (*inside, node))


def _keys_that_are_there_twice(node: yaml.Node | None, seen: set[int]) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Each such key, and the one before it, as written: what a merge key takes over may be there again."""
    if node is None or id(node) in seen or not isinstance(node, yaml.CollectionNode):
        return
    seen.add(id(node))
    first: dict[Any, yaml.Node] = {}
    for entry in node.value:
        if isinstance(entry, tuple):
            key, value = entry
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                before = first.setdefault((key.tag, key.value), key)
                if before is not key:
                    yield key, before
            yield from _keys_that_are_there_twice(key, seen)
        else:
            value = entry
        yield from _keys_that_are_there_twice(value, seen)


@dataclass(frozen=True)
class Document(Generic[Model]):
    """A kind of YAML file: the schema of what it holds, the error that is raised about it, its smallest example."""

    model: type[Model]
    error: type[Sam3Error]
    smallest: str

    def read(self, path: Path, shown: str | None = None, hint: str | None = None) -> str:
        """The text of a file, which messages call ``shown``; ``hint`` helps where there is none."""
        shown = shown or str(path)
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise self.error(f"{shown} is missing", hint) from None
        except (OSError, UnicodeDecodeError) as error:
            raise self.error(f"{shown} cannot be read: {error}") from None

    def parse(self, text: str, file: str) -> tuple[Model, Places]:
        """What ``text`` holds, checked, and the line of every value."""
        data, places = self.load(text, file)
        return self.check(data, places, file), places

    def check(self, data: dict[str, Any], places: Places, file: str) -> Model:
        """What :meth:`load` gave, checked."""
        try:
            return self.model.model_validate(data)
        except ValidationError as error:
            raise self._explain(error, data, places, file) from None

    def load(self, text: str, file: str) -> tuple[dict[str, Any], Places]:
        """What ``text`` holds, unchecked, and the line of every value."""
        try:
            loader = _Loader(text)
            loader.name, loader.error = file, self.error
            node = loader.get_single_node()
            for key, before in _keys_that_are_there_twice(node, set()):
                raise self.error(
                    f"{file}:{key.start_mark.line + 1}: the key {key.value!r} is there twice "
                    f"(first on line {before.start_mark.line + 1})",
                    "keep one of them: a second one would silently replace the first",
                )
            value = None if node is None else loader.construct_document(node)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark else 1
            source = text.splitlines()[line - 1] if mark and line <= len(text.splitlines()) else ""
            if "\t" in source:
                raise self.error(
                    f"{file}:{line}: a tab stands in this line", "YAML indents with spaces; replace the tab"
                ) from None
            problem = getattr(error, "problem", None) or str(error)
            reads = f"the line reads: {source.strip()}" if source.strip() else "something is open where the file ends"
            raise self.error(f"{file}:{line}: not valid YAML: {problem}", reads) from None
        if value is None:
            raise self.error(f"{file} is empty", f"the smallest file is:  {self.smallest}")
        if not isinstance(value, dict):
            raise self.error(
                f"{file}:1: expected sections, found {type(value).__name__}", f"for example  {self.smallest}"
            )
        places: Places = {}
        for path, line in places_of(node):
            places[path] = line
            if len(places) > _MOST_PLACES:
                raise self.error(f"{file} has more than {_MOST_PLACES} values, counting what its aliases repeat")
        return value, places

    def _explain(self, error: ValidationError, data: Mapping[str, Any], places: Places, file: str) -> Sam3Error:
        """One message out of pydantic's many: that of the most specific place."""
        known = [(detail, _real_path(detail["loc"], data)) for detail in error.errors(include_url=False)]
        # A union reports every branch; a message of ours, or a bound, says more than "should be a list".
        rank = {"value_error": 0, "extra_forbidden": 0, "greater_than_equal": 1, "literal_error": 1, "int_type": 2}
        detail, path = min(known, key=lambda item: (rank.get(item[0]["type"], 3), -len(item[1])))
        where = f"{file}:{nearest_place(places, path)}: {dotted(path)}"
        given = detail["input"]
        match detail["type"]:
            case "extra_forbidden":
                allowed = _allowed_keys(self.model, path[:-1])
                close = difflib.get_close_matches(str(path[-1]), allowed, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(allowed))}"
                return self.error(f"{where}: unknown key {path[-1]!r}", hint)
            case "value_error":
                return self.error(f"{where}: {detail['ctx']['error']}")
            case "greater_than_equal":
                return self.error(f"{where}: {given} is too small", f"it must be at least {detail['ctx']['ge']}")
            case "less_than_equal":
                return self.error(f"{where}: {given} is too large", f"it must be at most {detail['ctx']['le']}")
            case "literal_error":
                return self.error(f"{where}: {given!r} is not known", f"use {detail['ctx']['expected']}")
            case "missing":
                return self.error(
                    f"{file}:{nearest_place(places, path)}: `{dotted(path)}` is missing",
                    f"for example  {self.smallest}",
                )
            case "too_short":
                example = f", such as  {self.smallest}" if len(path) == 1 else ""
                return self.error(f"{where}: the list is empty", f"list at least one{example}")
            case "string_type":
                return self.error(f"{where}: {given!r} is no text", "write it in quotes")
            case "model_type" | "dict_type":
                return self.error(f"{where}: expected keys with values, found {given!r}", "write  key: value  below it")
        return self.error(f"{where}: {given!r}: {detail['msg'].lower()}")


def nearest_place(places: Places, path: tuple[str | int, ...]) -> int:
    while path not in places and path:
        path = path[:-1]
    return places.get(path, 1)


def dotted(path: Iterable[str | int]) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.lstrip(".")


def _real_path(location: tuple[str | int, ...], data: Any) -> tuple[str | int, ...]:
    """Drop what pydantic adds to a location (names of union branches): keep what the file really holds."""
    path: list[str | int] = []
    for key in location:
        if isinstance(data, Mapping) and (key in data or not any(isinstance(k, int) for k in (key,))):
            if key in data:
                data = data[key]
                path.append(key)
            elif key == location[-1] and str(key).isidentifier():
                path.append(key)
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
            path.append(key)
    return tuple(path)


def _allowed_keys(model: Any, path: tuple[str | int, ...]) -> list[str]:
    """The keys of the section at ``path``."""
    for key in path:
        if isinstance(key, int):
            continue
        annotation = model.model_fields[key].annotation
        arguments = [a for a in getattr(annotation, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
        model = arguments[0] if arguments else annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    return list(model.model_fields)
