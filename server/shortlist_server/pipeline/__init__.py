"""The stages of a search and of an ingest, in order."""
