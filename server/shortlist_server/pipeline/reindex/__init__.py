"""Reindexing: the jobs that build generations beside the serving one, and estimates of their cost."""
