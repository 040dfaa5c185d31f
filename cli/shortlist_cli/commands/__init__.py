"""The commands that talk to a server, one module each."""
