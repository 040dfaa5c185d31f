"""Vectors in memory: segments, the growing segment, snapshots of both, and searches over them."""
