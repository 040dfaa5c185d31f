"""The documentation of this machine's Python standard library, as documents for the demo.

``ast`` reads the source files: nothing is imported or run. The result depends only on the interpreter and always has
the same order. Functions only read files; any thread.
"""

from __future__ import annotations

import ast
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_TEXT_CHARACTERS = 480
"""Longest text of an entry, cut at a word; about one passage of 128 tokens."""

RULE = frozenset("=-~*+ ")
"""A paragraph of only these characters underlines a title."""

SKIPPED_PACKAGES = frozenset(["encodings", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "turtledemo"])
"""Packages that nobody would search: tests, generated tables, programs, and 700 methods of tkinter."""


_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_Documented = ast.Module | _Definition


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One documented module, class, function or method of the standard library.

    Attributes:
        name: the qualified name, as in ``tempfile.TemporaryDirectory.cleanup``; unique in the corpus.
        module: the module that defines it.
        kind: "module", "class", "function" or "method".
        text: the signature, if any, and the first paragraphs of the docstring.
    """

    name: str
    module: str
    kind: str
    text: str


def stdlib_corpus(root: Path | None = None) -> list[Entry]:
    """The documented public modules, classes, functions and methods of a folder, sorted by name; takes a few seconds.

    Args:
        root: the folder to read; the running interpreter's library by default.
    """
    library = Path(sysconfig.get_path("stdlib"))
    root = root or library
    entries: dict[str, Entry] = {}
    for path in sorted(root.rglob("*.py")):
        *packages, stem = path.relative_to(root).with_suffix("").parts
        parts = packages if stem == "__init__" else [*packages, stem]
        if not parts or parts[0] in SKIPPED_PACKAGES or any(not p.isidentifier() or p.startswith("_") for p in parts):
            continue
        if root == library and parts[0] not in sys.stdlib_module_names:
            continue
        module = ".".join(parts)
        for entry in _entries(module, module, _parsed(path)):
            entries.setdefault(entry.name, entry)
    return sorted(entries.values(), key=lambda entry: entry.name)


def first_paragraphs(docstring: str) -> str:
    """The start of a docstring: whole paragraphs without interactive examples, at most ``MAX_TEXT_CHARACTERS`` long."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in inspect.cleandoc(docstring).split("\n\n")]
    text = "\n".join(paragraph for paragraph in paragraphs if not paragraph.startswith(">>>") and set(paragraph) - RULE)
    return text if len(text) <= MAX_TEXT_CHARACTERS else text[: MAX_TEXT_CHARACTERS - 3].rsplit(None, 1)[0] + "..."


def _parsed(path: Path) -> ast.Module:
    try:
        with warnings.catch_warnings(action="ignore"):  # old sources hold invalid escapes
            return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])


def _entries(module: str, name: str, node: _Documented) -> Iterator[Entry]:
    initializer = [child for child in node.body if isinstance(child, ast.FunctionDef) and child.name == "__init__"]
    docstrings = [docstring for one in (node, *initializer) if (docstring := ast.get_docstring(one))]
    if docstrings:
        kind, head = _described(node, is_member=name.rpartition(".")[0] != module)
        yield Entry(name=name, module=module, kind=kind, text=head + first_paragraphs(docstrings[0]))
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, _Definition) and not child.name.startswith("_"):
                yield from _entries(module, f"{name}.{child.name}", child)


def _described(node: ast.AST, *, is_member: bool) -> tuple[str, str]:
    """The kind of a definition, and its signature as a line."""
    if isinstance(node, ast.ClassDef):
        return "class", f"class {node.name}({', '.join(map(ast.unparse, node.bases))})\n".replace("()\n", "\n")
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        prefix = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        return "method" if is_member else "function", f"{prefix} {node.name}({ast.unparse(node.args)})\n"
    return "module", ""
