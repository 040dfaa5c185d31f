"""The documentation of the Python standard library on this machine, as documents for the demo.

Modules written in Python are read with ``ast``: none of them is imported or run. Builtins and a few modules written in
C have no source, so their docstrings are read from the live objects. The result depends on the interpreter alone and
is in the same order every time. Pure functions; any thread.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import sysconfig
import types
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["module", "class", "function", "method"]

MAX_ENTRIES = 6_000
"""Entries kept; methods beyond it are left out, so that the demo's ingest has a bound."""

MAX_TEXT_CHARACTERS = 480
"""Where the text of an entry is cut, at a paragraph or word; about one passage of 128 tokens."""

# Nothing one would search for: tests, programs, generated tables, what is about to go. tkinter has 700 methods.
_SKIPPED_FOLDERS = frozenset(
    ["distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "turtledemo"]
)
_SKIPPED_MODULES = frozenset(["antigravity", "sre_compile", "sre_constants", "sre_parse", "this", "turtle"])

# Imported name and published name. All come with the interpreter and only define things when imported.
_COMPILED_MODULES = (
    ("builtins", "builtins"),
    ("_bisect", "bisect"),
    ("_collections", "collections"),
    ("_functools", "functools"),
    ("_heapq", "heapq"),
    ("_struct", "struct"),
    ("array", "array"),
    ("atexit", "atexit"),
    ("binascii", "binascii"),
    ("cmath", "cmath"),
    ("fcntl", "fcntl"),
    ("gc", "gc"),
    ("itertools", "itertools"),
    ("math", "math"),
    ("posix", "os"),
    ("select", "select"),
    ("sys", "sys"),
    ("time", "time"),
    ("zlib", "zlib"),
)

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One documented thing of the standard library."""

    name: str
    """The qualified name, as in ``tempfile.TemporaryDirectory.cleanup``; unique in the corpus."""
    module: str
    """The module under which it is published."""
    kind: Kind
    """What it is."""
    text: str
    """The signature, where there is one, and the first paragraphs of the docstring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The entries kept, and how many documented things there were."""

    entries: tuple[Entry, ...]
    found: int


def stdlib_corpus(root: Path | None = None, *, max_entries: int = MAX_ENTRIES) -> Corpus:
    """The documented modules, classes, functions and methods of the standard library; takes a few seconds.

    Args:
        root: the folder to read; the running interpreter's library by default. Compiled modules are added only then.
        max_entries: how many entries to keep. Methods make way first, each module giving up its last ones.
    """
    source = Path(sysconfig.get_path("stdlib")) if root is None else root
    entries: dict[str, Entry] = {}
    for entry in itertools.chain(_source_entries(source), _compiled_entries() if root is None else ()):
        entries.setdefault(entry.name, entry)
    return Corpus(entries=tuple(_kept(entries.values(), max_entries)), found=len(entries))


def first_paragraphs(docstring: str, max_characters: int = MAX_TEXT_CHARACTERS) -> str:
    """The start of a docstring: whole paragraphs without interactive examples, at most ``max_characters`` long.

    A first paragraph that is longer is cut at a word and ends in "...".
    """
    kept: list[str] = []
    for paragraph in inspect.cleandoc(docstring).split("\n\n"):
        text = " ".join(paragraph.split())
        if not text or text.startswith(">>>") or set(text) <= set("-=~*+ "):
            continue
        room = max_characters - sum(len(part) + 1 for part in kept)
        if len(text) > room:
            if not kept:
                kept.append(text[: room - 3].rsplit(" ", 1)[0] + "...")
            break
        kept.append(text)
    return "\n".join(kept)


def _kept(entries: Iterable[Entry], max_entries: int) -> list[Entry]:
    """Everything but methods, then methods by turns from every module, in the order of their names."""
    ordered = sorted(entries, key=lambda entry: entry.name)
    kept = [entry for entry in ordered if entry.kind != "method"][:max_entries]
    methods: dict[str, list[Entry]] = defaultdict(list)
    for entry in ordered:
        if entry.kind == "method":
            methods[entry.module].append(entry)
    by_turns = (entry for turn in itertools.zip_longest(*methods.values()) for entry in turn if entry is not None)
    kept.extend(itertools.islice(by_turns, max_entries - len(kept)))
    return sorted(kept, key=lambda entry: entry.name)


def _source_entries(root: Path) -> Iterator[Entry]:
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if not parts or _SKIPPED_FOLDERS.intersection(parts) or parts[0] in _SKIPPED_MODULES:
            continue
        # Names that are no identifiers (site-packages, lib-dynload, config-3.12-...) are not the library's own.
        if any(part.startswith("_") or not part.isidentifier() for part in parts):
            continue
        tree = _parsed(path)
        if tree is not None:
            yield from _module_entries(".".join(parts), tree, path)


def _parsed(path: Path) -> ast.Module | None:
    """The syntax tree of a file, or None where it is not Python of this version."""
    try:
        # Old sources hold invalid escapes, about which the compiler warns.
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return None


def _module_entries(module: str, tree: ast.Module, path: Path) -> Iterator[Entry]:
    docstring = ast.get_docstring(tree)
    if docstring:
        yield Entry(name=module, module=module, kind="module", text=first_paragraphs(docstring))
    yield from _definitions(module, module, tree, nested=False)
    for private, names in _private_imports(tree, path):
        exported = [
            node for node in private.body if isinstance(node, _Definition) and (not names or node.name in names)
        ]
        yield from _definitions(module, module, ast.Module(body=list(exported), type_ignores=[]), nested=False)


def _private_imports(tree: ast.Module, path: Path) -> Iterator[tuple[ast.Module, set[str]]]:
    """Private modules from which a public one takes names at its top level; no names: all of them.

    ``concurrent.futures.Future``, for example, is written in ``concurrent/futures/_base.py``.
    """
    for node in _top_level(tree):
        stem = (node.module or "").rpartition(".")[2] if isinstance(node, ast.ImportFrom) else ""
        if isinstance(node, ast.ImportFrom) and stem.startswith("_"):
            source = path.parent / f"{stem}.py"
            if not source.is_file():
                source = path.parents[1] / f"{stem}.py"
            private = _parsed(source) if source.is_file() else None
            if private is not None:
                names = {alias.name for alias in node.names}
                yield private, set() if "*" in names else names


def _is_named(node: ast.stmt, names: set[str]) -> bool:
    return isinstance(node, _Definition) and (not names or node.name in names)


def _top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements of a module, those within a top-level ``try`` among them."""
    for node in tree.body:
        yield node
        if isinstance(node, ast.Try):
            yield from itertools.chain(node.body, *(handler.body for handler in node.handlers))


def _definitions(module: str, prefix: str, parent: ast.Module | ast.ClassDef, *, nested: bool) -> Iterator[Entry]:
    for node in parent.body:
        if not isinstance(node, _Definition) or node.name.startswith("_"):
            continue
        name = f"{prefix}.{node.name}"
        docstring = ast.get_docstring(node)
        kind: Kind = "method" if nested else "function"
        if isinstance(node, ast.ClassDef):
            docstring, kind = docstring or _initializer_docstring(node), "class"
        if docstring:
            text = f"{_signature(node)}\n{first_paragraphs(docstring)}"
            yield Entry(name=name, module=module, kind=kind, text=text)
        if isinstance(node, ast.ClassDef):
            yield from _definitions(module, name, node, nested=True)


def _initializer_docstring(node: ast.ClassDef) -> str | None:
    """The docstring of ``__init__``, where some classes keep the only description they have."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return ast.get_docstring(child)
    return None


def _signature(node: _Definition) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    prefix = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    arguments = ast.unparse(node.args).removeprefix("self, ").removeprefix("self")
    signature = f"{prefix} {node.name}({arguments})"
    return signature if len(signature) <= MAX_TEXT_CHARACTERS // 3 else f"{prefix} {node.name}(...)"


def _compiled_entries() -> Iterator[Entry]:
    for imported, module in _COMPILED_MODULES:
        try:
            live = importlib.import_module(imported)
        except ImportError:
            continue
        if imported == module and live.__doc__:
            yield Entry(name=module, module=module, kind="module", text=first_paragraphs(live.__doc__))
        for name, member in sorted(vars(live).items()):
            if not name.startswith("_") and isinstance(member, types.BuiltinFunctionType | type) and member.__doc__:
                yield from _compiled_member(module, name, member)


def _compiled_member(module: str, name: str, member: types.BuiltinFunctionType | type) -> Iterator[Entry]:
    if not isinstance(member, type):
        yield _live_entry(module, name, member, "function")
        return
    yield _live_entry(module, name, member, "class")
    for attribute, value in sorted(vars(member).items()):
        if not attribute.startswith("_") and isinstance(value, types.MethodDescriptorType) and value.__doc__:
            yield _live_entry(module, f"{name}.{attribute}", value, "method")


def _live_entry(module: str, name: str, member: object, kind: Kind) -> Entry:
    short = name.rpartition(".")[2]
    signature = getattr(member, "__text_signature__", None)
    paragraphs = first_paragraphs(getattr(member, "__doc__", None) or "").split("\n")
    if signature:
        # The interpreter marks a bound first argument with "$".
        head = short if kind == "class" else short + re.sub(r"^\(\$\w+(, /)?(, )?", "(", signature)
    elif paragraphs[0].startswith(f"{short}(") and len(paragraphs) > 1:
        # Older docstrings begin with the signature.
        head = paragraphs.pop(0)
    else:
        head = short if kind == "class" else f"{short}(...)"
    text = "\n".join([f"{'class' if kind == 'class' else 'def'} {head}", *paragraphs])
    return Entry(name=f"{module}.{name}", module=module, kind=kind, text=text)
