"""The command line: ``shortlist COMMAND``.

Commands are imported when they are run, so that ``--help`` is quick and a command needs only its own libraries. click
and rich come with the extra ``cli``; without them ``main`` says so.
"""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point; ends the process."""
    try:
        from shortlist_cli.group import cli
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("click", "rich"):
            raise
        sys.exit("The command line needs two more libraries: pip install 'shortlist[cli]'")
    cli(prog_name="shortlist")
