"""Makes a collection, puts documents in and searches them, in a few lines.

Run it with a server on this machine (``shortlist serve``), or give its address: ``python quickstart.py HOST:PORT``.
"""

import sys

from shortlist import Client, CollectionExists, Document

BOOKS = [
    Document(id="1", title="The time machine", text="An inventor travels to the far future.", metadata={"year": 1895}),
    Document(id="2", title="Twenty thousand leagues", text="A voyage under the sea.", metadata={"year": 1870}),
    Document(id="3", title="The invisible man", text="A scientist makes himself invisible.", metadata={"year": 1897}),
]


def main(target: str) -> None:
    """Fills a collection and searches it."""
    with Client(target) as client:
        client.wait_until_ready()
        try:
            client.create_collection("quickstart")
        except CollectionExists:
            print("The collection is there from the last run.")

        summary = client.ingest("quickstart", BOOKS).finish()
        print(f"{summary.acked} documents acknowledged, {summary.durable} of them new")

        result = client.search("quickstart", "a journey under water", limit=2)
        for hit in result:
            print(f"{hit.rank}. {hit.document.title} ({hit.document.metadata['year']}), score {hit.score:.2f}")
        print(f"{result.report.total_seconds * 1000:.1f} ms")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "localhost:50051")
