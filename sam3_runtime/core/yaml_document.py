"""Read YAML files against a pydantic schema, with one error per file: line, key, value and fix.

A :class:`Document` is a kind of file: its schema, and which error is raised about it. Pure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from sam3_runtime.core.errors import Sam3Error

Model = TypeVar("Model", bound=BaseModel)
Key = str | int
_MOST_LINES = 600_000
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys, and integers that YAML 1.1 reads differently from people."""

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

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping, which does not contain yet what it takes over from a merge key (``<<``)."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                before = first.setdefault((key.tag, key.value), key)
                if before is not key:
                    raise self.error(
                        f"{self.name}:{key.start_mark.line + 1}: the key {key.value!r} appears twice "
                        f"(first on line {before.start_mark.line + 1})",
                        "keep one of them: a second one would silently replace the first",
                    )
        return node


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


@dataclass(frozen=True)
class Lines:
    """The line of every value of a file, by the keys that lead to it."""

    file: str
    numbers: Mapping[tuple[Key, ...], int]

    def line(self, *keys: Key) -> int:
        """Return the line of a value, counted from 1; that of the nearest section where the value is left out."""
        while keys and keys not in self.numbers:
            keys = keys[:-1]
        return self.numbers.get(keys, 1)

    def where(self, *keys: Key) -> str:
        """Return ``FILE:LINE: KEY`` of a value, as messages begin."""
        return f"{self.file}:{self.line(*keys)}: {dotted(keys)}"


def dotted(keys: tuple[Key, ...]) -> str:
    """Return keys as one text, such as ``variants[1].batch``."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")


def _lines_of(
    node: yaml.Node | None, path: tuple[Key, ...] = (), inside: tuple[yaml.Node, ...] = ()
) -> Iterator[tuple[tuple[Key, ...], int]]:
    """Yield the path and line of every value, and then those of its key, which is where a person looks.

    A value that a merge key takes over has the line where it is written; a value ``inside`` itself is yielded once.
    """
    if node is None or node in inside:
        return
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _lines_of(value, (*path, key.value), (*inside, node))
            yield (*path, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines_of(value, (*path, index), (*inside, node))


_MESSAGES = {
    "value_error": ("{error}", ""),
    "greater_than_equal": ("{given} is too small", "it must be at least {ge}"),
    "less_than_equal": ("{given} is too large", "it must be at most {le}"),
    "literal_error": ("{given!r} is not known", "use {expected}"),
    "string_type": ("{given!r} is not text", "write it in quotes"),
    "model_type": ("expected keys with values, found {given!r}", "write  key: value  below it"),
    "dict_type": ("expected keys with values, found {given!r}", "write  key: value  below it"),
}
"""Message and hint by the type of pydantic's error."""


@dataclass(frozen=True)
class Document(Generic[Model]):
    """A kind of YAML file: the schema of its content, the error that is raised about it, its smallest example."""

    model: type[Model]
    error: type[Sam3Error]
    smallest: str

    def read(self, path: Path, shown: str | None = None, hint: str | None = None) -> str:
        """Return the text of a file.

        Raises :attr:`error`, which calls the file ``shown``, where it cannot be read; ``hint`` is for a missing file.
        """
        shown = shown or str(path)
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise self.error(f"{shown} is missing", hint) from None
        except (OSError, UnicodeDecodeError) as error:
            raise self.error(f"{shown} cannot be read: {error}") from None

    def parse(self, text: str, file: str) -> tuple[Model, Lines]:
        """Return the checked content of ``text``, and the line of every value; raises :attr:`error`."""
        data, lines = self.load(text, file)
        return self.check(data, lines), lines

    def load(self, text: str, file: str) -> tuple[dict[str, Any], Lines]:
        """Return the unchecked content of ``text``, and the line of every value; raises :attr:`error`."""
        try:
            loader = _Loader(text)
            loader.name, loader.error = file, self.error
            node = loader.get_single_node()
            value = None if node is None else loader.construct_document(node)
        except yaml.YAMLError as error:
            raise self._not_yaml(error, text, file) from None
        if value is None:
            raise self.error(f"{file} is empty", f"the smallest file is:  {self.smallest}")
        if not isinstance(value, dict):
            raise self.error(
                f"{file}:1: expected sections, found {type(value).__name__}", f"for example  {self.smallest}"
            )
        found = list(islice(_lines_of(node), _MOST_LINES))
        if len(found) == _MOST_LINES:
            raise self.error(f"{file} has too many values, counting those that its aliases repeat")
        return value, Lines(file, dict(found))

    def check(self, data: dict[str, Any], lines: Lines) -> Model:
        """Return what :meth:`load` returned, checked; raises :attr:`error`."""
        try:
            return self.model.model_validate(data)
        except ValidationError as error:
            raise self._explain(error, data, lines) from None

    def _not_yaml(self, error: yaml.YAMLError, text: str, file: str) -> Sam3Error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        source = "".join(text.splitlines()[line - 1 : line]) if mark else ""
        if "\t" in source:
            return self.error(f"{file}:{line}: a tab stands in this line", "YAML indents with spaces; replace the tab")
        problem = getattr(error, "problem", None) or str(error)
        hint = f"the line reads: {source.strip()}" if source.strip() else "something is open where the file ends"
        return self.error(f"{file}:{line}: not valid YAML: {problem}", hint)

    def _explain(self, error: ValidationError, data: Mapping[str, Any], lines: Lines) -> Sam3Error:
        """Return one message out of pydantic's many: that of the most specific value."""
        found = [(detail, _real_path(detail["loc"], data)) for detail in error.errors(include_url=False)]
        # A union reports every branch; a message of ours, or a bound, is more precise than "should be a list".
        rank = {"value_error": 0, "extra_forbidden": 0, "greater_than_equal": 1, "literal_error": 1, "int_type": 2}
        detail, path = min(found, key=lambda item: (rank.get(item[0]["type"], 3), -len(item[1])))
        where = lines.where(*path)
        match detail["type"]:
            case "extra_forbidden":
                allowed = _allowed_keys(self.model, path[:-1])
                close = difflib.get_close_matches(str(path[-1]), allowed, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(allowed))}"
                return self.error(f"{where}: unknown key {path[-1]!r}", hint)
            case "missing":
                where = f"{lines.file}:{lines.line(*path)}: `{dotted(path)}` is missing"
                return self.error(where, f"for example  {self.smallest}")
            case "too_short":
                example = f", such as  {self.smallest}" if len(path) == 1 else ""
                return self.error(f"{where}: the list is empty", f"list at least one{example}")
        message, hint = _MESSAGES.get(detail["type"], ("{given!r}: {problem}", ""))
        values = {"given": detail["input"], "problem": detail["msg"].lower(), **detail.get("ctx", {})}
        return self.error(f"{where}: {message.format(**values)}", hint.format(**values) or None)


def _real_path(location: tuple[Key, ...], data: Any) -> tuple[Key, ...]:
    """Return a location without what pydantic adds to it (names of union branches): the keys that are in the file."""
    path: list[Key] = []
    for key in location:
        if key in data if isinstance(data, Mapping) else isinstance(data, list) and key in range(len(data)):
            data = data[key]
            path.append(key)
        elif isinstance(data, Mapping) and key == location[-1] and str(key).isidentifier():
            path.append(key)
    return tuple(path)


def _allowed_keys(model: Any, path: tuple[Key, ...]) -> list[str]:
    """Return the keys of the section at ``path``."""
    for key in path:
        if isinstance(key, str):
            annotation = model.model_fields[key].annotation
            choices = getattr(annotation, "__args__", None) or (annotation,)
            sections = [one for one in choices if isinstance(one, type) and issubclass(one, BaseModel)]
            if not sections:
                return []
            model = sections[0]
    return list(model.model_fields)
