"""Lines of values, and one message for each kind of error; the messages of real files are in ``test_variants.py``."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict

from sam3_runtime.core.errors import VariantsError
from sam3_runtime.core.yaml_document import Document, dotted


class Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sizes: list[int] = []
    name: str = ""


DOCUMENT = Document(Content, VariantsError, "sizes: [1]")


def test_every_value_has_a_line_and_a_missing_one_that_of_its_section() -> None:
    content, lines = DOCUMENT.parse("name: x\nsizes:\n  - 1\n  - 2\n", "file.yaml")
    assert content.sizes == [1, 2]
    assert [lines.line(*keys) for keys in (("name",), ("sizes",), ("sizes", 1), ("sizes", 7), ())] == [1, 2, 4, 2, 1]
    assert lines.where("sizes", 1) == "file.yaml:4: sizes[1]"
    assert dotted(("a", 0, "b")) == "a[0].b"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("name: x\nsizes: [1, x]", "file.yaml:2: sizes[1]: 'x': input should be a valid integer", None),
        ("name: [1]", "file.yaml:1: name: [1] is not text", "write it in quotes"),
        ("nam: x", "file.yaml:1: nam: unknown key 'nam'", "did you mean 'name'?"),
        ("name: {x}\nname: y", "file.yaml:2: the key 'name' appears twice (first on line 1)", "keep one of them"),
        ("a: &a {name: x, name: y}", "file.yaml:1: the key 'name' appears twice (first on line 1)", "keep one of them"),
        ("name: 'x", "file.yaml:1: not valid YAML: found unexpected end of stream", "the line reads: name: 'x"),
    ],
)
def test_an_error_is_one_message(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(VariantsError) as caught:
        DOCUMENT.parse(text, "file.yaml")
    assert caught.value.message.startswith(message)
    assert (caught.value.hint is None) == (hint is None)
    assert (caught.value.hint or "").startswith(hint or "")
