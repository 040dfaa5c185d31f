"""Vectors in memory: segments, growing rows, snapshots of both, and searches over them."""
