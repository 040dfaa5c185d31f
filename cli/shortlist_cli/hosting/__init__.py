"""Commands that host a server or a worker: settings, keys and processes."""
