"""The blocking client, made from ``_async`` by ``scripts/unasync.py``, but for ``channel`` and ``ingest``."""
