"""The files of a data folder: locks, permissions, reserve, commit records, and faults of the disk."""
