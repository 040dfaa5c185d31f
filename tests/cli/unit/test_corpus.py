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
    return [entry.name for entry in stdlib_corpus(root)]


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
    entries = stdlib_corpus(root)
    assert [(entry.name, entry.kind, entry.module) for entry in entries] == [
        ("queueing", "module", "queueing"),
        ("queueing.fifo", "module", "queueing.fifo"),
        ("queueing.fifo.Fifo", "class", "queueing.fifo"),
        ("queueing.fifo.Fifo.put", "method", "queueing.fifo"),
        ("queueing.fifo.drain", "function", "queueing.fifo"),
    ]
    texts = [entry.text.partition("\n")[0] for entry in entries]
    assert texts[2:] == ["class Fifo(list)", "def put(self, item, *, block=True)", "async def drain(queue)"]


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


def test_a_class_without_a_docstring_takes_that_of_its_initializer(library: Library) -> None:
    root = library({"pool.py": 'class Pool:\n    def __init__(self, size):\n        """Makes a pool of workers."""\n'})
    (entry,) = stdlib_corpus(root)
    assert entry.text == "class Pool\nMakes a pool of workers."


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


def test_long_docstrings_end_at_a_word() -> None:
    cut = first_paragraphs("word " * MAX_TEXT_CHARACTERS)
    assert cut.endswith("word...")
    assert len(cut) <= MAX_TEXT_CHARACTERS


def test_the_library_of_this_interpreter_has_thousands_of_entries_and_imports_nothing() -> None:
    before = set(sys.modules)
    corpus = stdlib_corpus()
    assert not {"nntplib", "smtplib", "mailbox"} & (set(sys.modules) - before)
    by_name = {entry.name: entry for entry in corpus}
    assert 2_500 <= len(by_name) == len(corpus) <= 10_000
    assert {"tempfile.TemporaryDirectory", "concurrent.futures.process.ProcessPoolExecutor"} <= set(by_name)
    assert by_name["os.makedirs"].text.startswith("def makedirs(name, mode=511, exist_ok=False)\n")
    assert corpus == stdlib_corpus()
