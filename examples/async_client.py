"""The client for asyncio: many searches at once, and an ingest from an async source.

Run it with a server on this machine (``shortlist serve``), or give its address: ``python async_client.py HOST:PORT``.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

from shortlist import AsyncClient, CollectionExists, Document

PLANETS = {"Mercury": "closest to the sun", "Venus": "hot and cloudy", "Mars": "red and cold", "Saturn": "has rings"}


async def messages() -> AsyncIterator[Document]:
    """Stands for a queue or database whose documents arrive over time."""
    for name, text in PLANETS.items():
        await asyncio.sleep(0)
        yield Document(id=name.lower(), title=name, text=f"{name} is a planet; it is {text}.")


async def main(target: str) -> None:
    """Fills a collection from an async source, then runs three searches at once."""
    async with AsyncClient(target) as client:
        await client.wait_until_ready()
        try:
            await client.create_collection("planets")
        except CollectionExists:
            print("The collection is there from the last run.")

        async for ack in client.ingest("planets", messages()):
            print(f"{ack.id}: {ack.status}")

        questions = ["red planet", "planet with rings", "near the sun"]
        results = await asyncio.gather(*(client.search("planets", question, limit=1) for question in questions))
        for question, result in zip(questions, results, strict=True):
            print(f"{question}: {result[0].document.title}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:50051"))
