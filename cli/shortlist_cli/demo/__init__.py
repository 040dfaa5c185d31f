"""The demo: a corpus that every machine has, served and searched."""
