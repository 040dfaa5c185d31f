"""Reindexing: the jobs that build generations beside what serves, and what they will need."""
