"""The client for asyncio, written by hand; ``scripts/unasync.py`` makes the blocking client of it."""
