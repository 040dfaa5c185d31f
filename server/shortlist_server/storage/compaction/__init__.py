"""Building segments from rows: what to build, the child process that builds, publication, recovery."""
