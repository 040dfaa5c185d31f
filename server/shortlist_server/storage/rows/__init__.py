"""Documents, passages and settings in SQLite: schema, reads, write transactions, filters."""
