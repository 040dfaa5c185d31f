"""The demo: serves and searches a corpus that every machine has."""
