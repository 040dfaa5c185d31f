"""Making one ranking out of several, and judging rankings: pure functions, shared by searches and evaluation."""
