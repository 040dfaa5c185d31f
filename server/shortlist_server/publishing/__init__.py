"""Models that are published to the running server: their files on disk, and their way into the catalog."""
