"""What a start is doing, as lines of the log.

They come from one logger: a command that starts a server recognises them by its name and shows them. Any thread.
"""

from __future__ import annotations

import logging

LOGGER = "shortlist_server.start"
"""Name of the logger; the commands look for it in the log of a server that they start."""


def say(text: str) -> None:
    """Logs what the start is doing now, at level INFO."""
    logging.getLogger(LOGGER).info("%s", text)
