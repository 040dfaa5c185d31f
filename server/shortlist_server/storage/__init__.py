"""Collections on disk: SQLite holds the truth, and the indexes can be rebuilt from it."""
