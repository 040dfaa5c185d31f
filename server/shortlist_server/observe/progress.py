"""What a start does and how far it is, as lines of the log.

They come from one logger, so that a command that starts a server can tell them from the rest and show them. Any thread.
"""

from __future__ import annotations

import logging

LOGGER = "shortlist_server.start"
"""Name of the logger; the commands look for it in the log of a server that they start."""


def say(text: str) -> None:
    """Tells what is being done now, at level INFO."""
    logging.getLogger(LOGGER).info("%s", text)
