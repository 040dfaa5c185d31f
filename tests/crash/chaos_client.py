"""The client of the chaos test, a program of its own so that it can be killed.

``python chaos_client.py TARGET COUNT CHECKPOINT ACKS``: ingests COUNT documents and appends a line for each ack to ACKS
before it asks for the next.
"""

import os
import sys
from collections.abc import Iterator

from shortlist import Client, Document

BAD_EVERY = 500
"""Every so many documents one has no text, and must be known to have failed."""


def documents(count: int) -> Iterator[Document]:
    for number in range(count):
        text = "" if number % BAD_EVERY == BAD_EVERY - 1 else f"Document {number} has number {number} in its text."
        yield Document(id=f"d{number}", text=text, metadata={"number": number})


def main(target: str, count: str, checkpoint: str, acks: str) -> None:
    log = os.open(acks, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with Client(target) as client:
        for ack in client.ingest("chaos", documents(int(count)), checkpoint=checkpoint, reconnect_seconds=60):
            os.write(log, f"{ack.index} {ack.id} {ack.status}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
