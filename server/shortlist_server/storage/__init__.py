"""Collections on disk: SQLite as truth, indexes that can be rebuilt from it."""
