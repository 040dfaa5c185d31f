"""The files of a data folder: permissions, locks, commit records, descriptors and errors of the disk."""
