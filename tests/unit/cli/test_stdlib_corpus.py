"""The demo's corpus: what is found in a library, what is left out, and how texts are cut."""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from shortlist_cli.demo.corpus import MAX_TEXT_CHARACTERS, first_paragraphs, stdlib_corpus

Library = Callable[[dict[str, str]], Path]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """Writes a small standard library and returns its folder."""

    def write(files: dict[str, str]) -> Path:
        for name, source in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source))
        return tmp_path

    return write


def names(root: Path) -> list[str]:
    return [entry.name for entry in stdlib_corpus(root).entries]


def test_every_public_thing_with_a_docstring_is_an_entry(library: Library) -> None:
    root = library(
        {
            "queueing/__init__.py": '"""Queues."""',
            "queueing/fifo.py": '''
                """First in, first out."""

                class Fifo(list):
                    """A queue."""

                    def put(self, item, *, block=True):
                        """Adds an item."""

                async def drain(queue):
                    """Empties a queue."""
            ''',
        }
    )
    entries = stdlib_corpus(root).entries
    assert [(entry.name, entry.kind, entry.module) for entry in entries] == [
        ("queueing", "module", "queueing"),
        ("queueing.fifo", "module", "queueing.fifo"),
        ("queueing.fifo.Fifo", "class", "queueing.fifo"),
        ("queueing.fifo.Fifo.put", "method", "queueing.fifo"),
        ("queueing.fifo.drain", "function", "queueing.fifo"),
    ]
    texts = [entry.text.partition("\n")[0] for entry in entries]
    assert texts[2:] == ["class Fifo(list)", "def put(item, *, block=True)", "async def drain(queue)"]


def test_private_undocumented_and_skipped_things_are_left_out(library: Library) -> None:
    source = '"""Doc."""\ndef f():\n    """Doc."""\n'
    root = library(
        {
            "_private.py": source,
            "test/test_f.py": source,
            "site-packages/other.py": source,
            "tkinter/__init__.py": source,
            "public.py": 'def documented():\n    """Doc."""\ndef bare(): ...\ndef _hidden():\n    """Doc."""\n',
            "broken.py": "print 'an older Python'",
        }
    )
    assert names(root) == ["public.documented"]


def test_what_a_module_takes_from_a_private_one_is_published_under_its_own_name(library: Library) -> None:
    root = library(
        {
            "futures/__init__.py": "from ._base import Future\ntry:\n    from _speed import *\nexcept ImportError: ...",
            "futures/_base.py": 'class Future:\n    """A result to come."""\nclass Other:\n    """Not taken."""\n',
            "_speed.py": 'def fast():\n    """Fast."""\n',
        }
    )
    assert names(root) == ["futures.Future", "futures.fast"]


def test_a_class_without_a_docstring_takes_that_of_its_initializer(library: Library) -> None:
    root = library({"pool.py": 'class Pool:\n    def __init__(self, size):\n        """Makes a pool of workers."""\n'})
    (entry,) = stdlib_corpus(root).entries
    assert entry.text == "class Pool\nMakes a pool of workers."


def test_methods_make_way_first_and_every_module_gives_up_its_last_ones(library: Library) -> None:
    methods = "".join(f'    def {name}(self):\n        """Doc."""\n' for name in "abc")
    root = library({"one.py": f"class X:\n{methods}", "two.py": f'class Y:\n    """Doc."""\n{methods}'})
    corpus = stdlib_corpus(root, max_entries=5)
    assert corpus.found == 7
    assert [entry.name for entry in corpus.entries] == ["one.X.a", "one.X.b", "two.Y", "two.Y.a", "two.Y.b"]


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("One\n    line.\n\n    Two.", "One line.\nTwo."),
        ("Title\n=====\n", "Title ====="),
        ("Title\n\n=====\n\nText", "Title\nText"),
        ("Doc.\n\n>>> 1 + 1\n2\n\nMore.", "Doc.\nMore."),
        ("", ""),
    ],
)
def test_paragraphs_are_joined_and_examples_left_out(docstring: str, expected: str) -> None:
    assert first_paragraphs(docstring) == expected


def test_long_docstrings_end_at_a_paragraph_and_a_long_first_one_at_a_word() -> None:
    assert first_paragraphs("short\n\n" + "word " * 20, max_characters=40) == "short"
    cut = first_paragraphs("word " * 20, max_characters=40)
    assert cut.endswith("word...")
    assert len(cut) <= 40


def test_the_library_of_this_interpreter_has_thousands_of_entries_and_imports_nothing() -> None:
    before = set(sys.modules)
    corpus = stdlib_corpus()
    assert not {"nntplib", "smtplib", "mailbox"} & (set(sys.modules) - before)
    by_name = {entry.name: entry for entry in corpus.entries}
    assert 2_500 <= len(by_name) == len(corpus.entries) <= corpus.found
    assert {"tempfile.TemporaryDirectory", "builtins.sorted", "os.listdir", "math.sqrt"} <= set(by_name)
    assert by_name["builtins.sorted"].text.startswith("def sorted(iterable, /, *, key=None, reverse=False)\n")
    assert all(len(entry.text) <= 2 * MAX_TEXT_CHARACTERS for entry in corpus.entries)
    assert corpus == stdlib_corpus()
