"""Segments built from rows: what to build, the child process that builds it, publication, recovery."""
