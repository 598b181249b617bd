"""The tests themselves: none passes because a loop ran over nothing, and every module of the package has its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "sam3_runtime"
Names = Mapping[str, list[ast.expr]]


PARITY = "by export/test_parity.py: each graph against transformers, with which its modules share weights"
ELSEWHERE = {
    "api": "names of other modules; by families/sam3/test_pipeline.py",
    "engines/building/tensorrt_python": "by engines/building/test_tensorrt.py, which builds through it",
    "families/sam3/export/decoder": PARITY,
    "families/sam3/export/geometry": PARITY,
    "families/sam3/export/islands": "data; by export/test_losses.py: what each island gains",
    "families/sam3/export/layers": PARITY,
    "families/sam3/export/scene": "makes the inputs of export/test_parity.py",
    "families/sam3/export/text": PARITY,
    "families/sam3/export/vision": PARITY,
    "measure/share": "by workflow/test_share.py: verifies and measures a variant that was built",
    "plan/carried_code": "data; by workflow/test_carried_code.py",
}
"""Modules of the package without a test module of their own, and why."""


def test_every_module_has_a_test_module() -> None:
    """In the same folder: ``tests/core/test_files.py`` for ``sam3_runtime/core/files.py``."""
    modules = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert len(modules) > 100
    without = {one for one in modules if not (TESTS / one.with_name(f"test_{one.name}")).is_file()}
    assert {one.with_suffix("").as_posix() for one in without} == set(ELSEWHERE)


def test_the_tests_of_those_without_one_are_there() -> None:
    for module, why in ELSEWHERE.items():
        (named,) = re.findall(r"[\w/]+\.py", why)
        assert [path for path in TESTS.rglob("test_*.py") if path.as_posix().endswith(f"/{named}")], module


def test_no_test_asserts_only_in_loops_that_may_not_run() -> None:
    """Such a test passes where a list is empty by a defect: assert as well how long the list is."""
    checked = [(path, test) for path in sorted(TESTS.rglob("test_*.py")) for test in collected(path)]
    assert len(checked) > 1000
    assert [f"{path.relative_to(TESTS)}:{test.name}" for path, test in checked if not is_firm(path, test)] == []


@pytest.mark.parametrize(
    "body",
    [
        "assert f()",
        "with pytest.raises(OSError): f()",
        "np.testing.assert_allclose(f(), 1)",
        "for x in f(): assert x\n assert f()",
        "for x in (1, f()): assert x",
        "for x in [*f(), *range(3)]: assert x",
        "for x, y in KNOWN.items(): assert x",
        "for x, y in enumerate(sorted(KNOWN)): assert x",
        "for x, y in zip(KNOWN, f(), strict=True): assert x",
        "xs = [f(x) for x in range(SIZE)]\n for x in xs: assert x",
        "for x in given: assert x",
        "assert all(x for x in KNOWN)",
        "checked(1)",
        "for x in f():\n  pass\n else: assert x",
    ],
)
def test_firm(tmp_path: Path, body: str) -> None:
    assert is_firm(*written(tmp_path, body))


@pytest.mark.parametrize(
    "body",
    [
        "f()",
        "for x in f(): assert x",
        "while f(): assert x",
        "for x in f():\n  with pytest.raises(OSError): x()",
        "for x in range(0): assert x",
        "for x in range(f()): assert x",
        "for x in range(2, f()): assert x",
        "for x, y in zip(KNOWN, f()): assert x",
        "xs = [1]\n xs = f()\n for x in xs: assert x",
        "for x in [x for x in KNOWN if f(x)]: assert x",
        "assert all(x for x in f())",
        "assert not any(x for x in f())",
        "assert all(x for x in f()) and all(y for y in f())",
        "for x in f(): checked(x)",
        "every(f())",
        "def inner():\n  assert f()\n f(inner)",
    ],
)
def test_not_firm(tmp_path: Path, body: str) -> None:
    assert not is_firm(*written(tmp_path, body))


def written(folder: Path, body: str) -> tuple[Path, ast.FunctionDef]:
    path = folder / "test_it.py"
    path.write_text(
        "KNOWN = {1: 2}\nSIZE = 3\ndef checked(x):\n assert x\ndef every(xs):\n for x in xs: assert x\n"
        f"@pytest.mark.parametrize('given', [[1]])\ndef test_it(given):\n {body}\n"
    )
    (test,) = collected(path)
    return path, test


# --- the scan ---------------------------------------------------------------------------------------------------------

AS_LONG = {"arange", "combinations", "dict", "enumerate", "items", "keys", "list", "map", "permutations", "product",
           "range", "reversed", "set", "sorted", "split", "splitlines", "tuple", "values", "zip"}  # fmt: skip
"""Functions and methods whose results are empty only where one of their arguments is."""


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def functions_of(path: Path) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef)}


def collected(path: Path) -> list[ast.FunctionDef]:
    return [function for name, function in functions_of(path).items() if name.startswith("test_")]


@cache
def shared_helpers() -> frozenset[str]:
    """The names of functions in all files of tests that are firm, fixtures' own functions included."""
    functions = [(path, one) for path in TESTS.rglob("*.py") for one in functions_of(path).values()]
    return frozenset(one.name for path, one in functions if is_firm(path, one, follow=False))


@cache
def is_firm(path: Path, function: ast.FunctionDef, follow: bool = True) -> bool:
    """Whether it asserts something also where everything that it loops over is empty, apart from literals.

    ``follow``: helpers that it calls may do so in its place.
    """
    names = assigned(tree_of(path)) | assigned(function) | parametrized(function)
    own = functions_of(path)

    def is_helper(name: str) -> bool:
        return is_firm(path, own[name], follow=False) if name in own else name in shared_helpers()

    def asserts(node: ast.AST) -> bool:
        match node:
            case ast.FunctionDef():
                return False  # what is defined here may never be called
            case ast.For() | ast.While() if not (isinstance(node, ast.For) and has_items(node.iter, names)):
                return any(map(asserts, node.orelse))
            case ast.Assert():
                return not is_vacuous(node.test, names)
            case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name)):
                if name.startswith("assert_") or name in ("fail", "raises", "warns"):
                    return True
                if follow and isinstance(node.func, ast.Name) and is_helper(name):
                    return True
        return any(map(asserts, ast.iter_child_nodes(node)))

    return any(map(asserts, function.body))


def assigned(scope: ast.Module | ast.FunctionDef) -> dict[str, list[ast.expr]]:
    """All that each name is assigned in a module or function, outside of the functions in it."""
    found: dict[str, list[ast.expr]] = {}
    left: list[ast.AST] = [*scope.body]
    while left:
        match node := left.pop():
            case ast.FunctionDef():
                continue
            case ast.Assign(targets=[ast.Name(name)], value=value) | ast.AnnAssign(target=ast.Name(name), value=value):
                found.setdefault(name, []).extend([value] if value else [])
        left += ast.iter_child_nodes(node)
    return found


def parametrized(function: ast.FunctionDef) -> dict[str, list[ast.expr]]:
    """The parameters of a test whose values its decorators list."""
    calls = [one for one in function.decorator_list if isinstance(one, ast.Call) and one.args]
    texts = [ast.unparse(call.args[0]) for call in calls if "parametrize" in ast.unparse(call.func)]
    return {name: [ast.Constant(name)] for text in texts for name in re.findall(r"\w+", text)}


def has_items(node: ast.expr, names: Names) -> bool:
    """Whether an expression is a literal that is not empty, or as long as one."""
    match node:
        case ast.Constant(value):
            return bool(value)
        case ast.List(items) | ast.Tuple(items) | ast.Set(items):
            return any(not isinstance(one, ast.Starred) or has_items(one.value, names) for one in items)
        case ast.Dict(keys):
            return any(keys)
        case ast.Name(name):
            others = {known: values for known, values in names.items() if known != name}
            return bool(names.get(name)) and all(has_items(value, others) for value in names[name])
        case ast.BinOp(left, ast.Add() | ast.BitOr(), right):
            return has_items(left, names) or has_items(right, names)
        case ast.Subscript(value, ast.Slice(lower=None)):
            return has_items(value, names)
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
            return all(not each.ifs and has_items(each.iter, names) for each in node.generators)
        case ast.Call(func=ast.Name("range") | ast.Attribute(attr="arange"), args=[first, last, *_]):
            return isinstance(first, ast.Constant) and isinstance(last, ast.Constant) and first.value < last.value
        case ast.Call(func=ast.Attribute(value, name), args=[]) if name in AS_LONG:
            return has_items(value, names)
        case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name), args=args) if args and name in AS_LONG:
            strict = any(keyword.arg == "strict" and ast.unparse(keyword.value) == "True" for keyword in node.keywords)
            return (any if strict else all)(has_items(one, names) for one in args[name == "map" :])
    return False


def is_vacuous(test: ast.expr, names: Names) -> bool:
    """Whether an asserted expression holds where all that it goes through is empty."""
    match test:
        case ast.BoolOp(ast.And(), parts):
            return all(is_vacuous(part, names) for part in parts)
        case ast.Call(ast.Name("all"), [items]) | ast.UnaryOp(ast.Not(), ast.Call(ast.Name("any"), [items])):
            return isinstance(items, ast.GeneratorExp | ast.ListComp) and not has_items(items, names)
    return False
