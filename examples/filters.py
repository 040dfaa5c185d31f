"""Filters as Python expressions, in searches, counts and deletions.

Run it with a server on this machine (``shortlist serve``), or give its address: ``python filters.py HOST:PORT``.
"""

import sys

from shortlist import Client, CollectionConfig, CollectionExists, Document, Field

FILMS = [
    Document(id="1", title="Metropolis", metadata={"year": 1927, "tags": ["silent"], "by": {"name": "Lang"}}),
    Document(id="2", title="M", metadata={"year": 1931, "tags": ["crime"], "by": {"name": "Lang"}}),
    Document(id="3", title="Modern times", metadata={"year": 1936, "tags": ["silent", "comedy"]}),
    Document(id="4", title="Casablanca", metadata={"year": 1942, "tags": ["war"], "by": {"name": "Curtiz"}}),
]


def main(target: str) -> None:
    """Uses filters in listings, counts, searches and deletions."""
    year, tags, director = Field("year"), Field("tags"), Field("by.name")
    with Client(target) as client:
        client.wait_until_ready()
        try:
            # Index the fields that are often filtered on; filters work on all others too.
            client.create_collection("films", CollectionConfig(filterable_fields=("year",)))
        except CollectionExists:
            print("The collection is there from the last run.")
        client.ingest("films", FILMS).finish()

        filters = {
            "thirties": year.between(1930, 1939),
            "silent or by Lang": tags.contains("silent") | (director == "Lang"),
            "not silent": ~tags.contains("silent"),
            "known director, after 1930": director.exists() & (year > 1930),
            "one of two directors": director.is_in(["Curtiz", "Chaplin"]),
        }
        for name, filter in filters.items():
            titles = [document.title for document in client.list("films", filter=filter)]
            print(f"{name}: {', '.join(titles)} ({client.count('films', filter=filter)})")

        result = client.search("films", "modern metropolis", filter=year < 1930)
        print(f"search among {result.report.filter_matches}: {result[0].document.title}")
        deleted = client.delete("films", filter=director == "Curtiz")
        print(f"deleted {deleted.deleted_count}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "localhost:50051")
