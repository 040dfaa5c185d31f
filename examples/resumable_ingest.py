"""An ingest that survives a crash of either side.

When the connection or the server fails, the client waits, then sends again what was not acknowledged. With a checkpoint
file the client may be killed too: run the program again and it goes on where it stopped. To see this, press Ctrl-C
while it runs, then start it again.

Run it with a server on this machine (``shortlist serve``), or give its address: ``python resumable_ingest.py
HOST:PORT``.
"""

import sys
from collections.abc import Iterator

from shortlist import Client, CollectionExists, Document, IngestFailed, IngestInterrupted, IngestSummary

CHECKPOINT = "resumable_ingest.checkpoint"
COUNT = 5_000


def documents() -> Iterator[Document]:
    """Yields the same documents in the same order each time, because resuming relies on it."""
    for number in range(COUNT):
        yield Document(id=f"note-{number}", title=f"Note {number}", text=f"This is the text of note number {number}.")
    yield Document(id="empty")


def show(summary: IngestSummary) -> None:
    """Prints the progress in one line."""
    print(f"\r{summary.acked} acknowledged, {summary.reconnects} reconnects", end="", file=sys.stderr)


def main(target: str) -> None:
    """Ingests all documents, or says how to go on."""
    with Client(target) as client:
        client.wait_until_ready()
        try:
            client.create_collection("notes")
        except CollectionExists:
            print("The collection is there from an earlier run.")

        run = client.ingest("notes", documents(), checkpoint=CHECKPOINT, progress=show)
        try:
            run.finish()
        except KeyboardInterrupt:
            run.close()
            print("\nStopped; run me again to go on.")
        except IngestInterrupted as error:
            print(f"\nThe server stayed away ({error}); run me again to go on.")
        except IngestFailed as error:
            # All other documents are stored; these need a look.
            for ack in error.summary.failures:
                print(f"\n{ack.id} failed: {ack.error}")
        print(f"{client.count('notes')} documents are stored")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "localhost:50051")
