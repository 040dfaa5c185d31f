"""Generates the blocking client from the asyncio client: ``client/shortlist/_async`` becomes ``_sync``.

    python scripts/unasync.py            # writes the files
    python scripts/unasync.py --check    # exits 1 when a file is not current

``channel.py`` and ``ingest.py`` differ in substance and are written by hand on both sides. The method is httpcore's
(https://github.com/encode/httpcore/blob/master/scripts/unasync.py): substitutions, line by line, then the formatter.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[1] / "client" / "shortlist"
SOURCE, TARGET = CLIENT / "_async", CLIENT / "_sync"

BY_HAND = {"__init__.py", "channel.py", "ingest.py"}

SUBSTITUTIONS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Types and imports.
        (r"\bAwaitable, ", ""),
        (r"\bAwaitable\[(.*)\]\]", r"\1]"),
        (
            r"\bAsync(AdminCalls|ClientBase|Client|GenerationCalls|Ingest|Iterator|ModelCalls|OperationCalls|Pages)\b",
            r"\1",
        ),
        (r"\b_async\b", "_sync"),
        (r"__a(enter|exit|iter)__", r"__\1__"),
        # Syntax.
        (r"\basync (def|for|with)\b", r"\1"),
        (r"\bawait ", ""),
        # Prose.
        (r"an ``with`` block", "a ``with`` block"),
        (r" for asyncio\b", ""),
        (r"It belongs to one event loop", "It may be used from any thread, but not after a fork"),
        (r"Items of all pages in ``for``", "Items of all pages when iterated"),
        (r"\bin the event loop\b", "in the calling thread"),
        (r"or ``finish\(\)``", "or call ``finish()``"),
    )
]
"""Patterns and replacements, applied in this order."""


def blocking(name: str) -> str:
    """The blocking form of a file of ``_async``, formatted."""
    text = (SOURCE / name).read_text(encoding="utf-8")
    for pattern, replacement in SUBSTITUTIONS:
        text = pattern.sub(replacement, text)
    text = f"# Made by scripts/unasync.py from {SOURCE.name}/{name}; change that file.\n{text}"
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        path = str(TARGET / name)
        run = [str(ruff), *command, "--stdin-filename", path, "-"]
        text = subprocess.run(run, input=text, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return text


def main() -> None:
    """Writes the stale files, or with ``--check`` names them."""
    stale = []
    for path in sorted(SOURCE.glob("*.py")):
        if path.name in BY_HAND:
            continue
        made, target = blocking(path.name), TARGET / path.name
        if not target.exists() or target.read_text(encoding="utf-8") != made:
            stale.append(path.name)
            if "--check" not in sys.argv:
                target.write_text(made, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"not current: _sync/{', _sync/'.join(stale)}; run python scripts/unasync.py")


if __name__ == "__main__":
    main()
