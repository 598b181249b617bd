"""Commands of ``sam3-runtime`` in the documents have the names and options that they use."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from sam3_runtime.cli.main import app

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob("demo/*.md")]
CLI: Any = typer.main.get_command(app)


def commands(text: str) -> list[str]:
    """Return each command in a code block or in backticks, continuation lines joined."""
    blocks = re.findall(r"```(?:bash)?\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`(sam3-runtime [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [line.split(" #")[0].strip() for line in [*lines, *inline] if line.strip().startswith("sam3-runtime ")]


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if commands(path.read_text())], ids=lambda path: path.name
)
def test_options_exist(document: Path) -> None:
    found = commands(document.read_text())
    assert found
    for command in found:
        name, *arguments = shlex.split(command)[1:]
        assert name in CLI.commands or name.startswith("--"), command
        if name in CLI.commands:
            known = {option for parameter in CLI.commands[name].params for option in parameter.opts}
            used = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
            assert used <= known | {"--help"}, command


def test_there_are_commands() -> None:
    assert sum(len(commands(path.read_text())) for path in DOCUMENTS) > 40
