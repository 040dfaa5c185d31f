"""``python -m shortlist_server``: the same as ``shortlist serve``."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line's ``serve`` with this process's arguments."""
    from shortlist._cli import main as command_line

    sys.argv.insert(1, "serve")
    command_line()


if __name__ == "__main__":
    main()
