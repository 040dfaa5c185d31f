"""The command line: ``shortlist COMMAND``.

Each command is imported only when it runs: ``--help`` stays quick, and a command needs only its own libraries. click
and rich come with the extra ``cli``; without them ``main`` names the command to install them.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line and ends the process."""
    try:
        from shortlist_cli.group import cli
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("click", "rich"):
            raise
        sys.exit("the command line needs two more libraries: pip install 'shortlist[cli]'")
    cli(prog_name="shortlist")
