"""Which collections are open: opening on use, closing when idle, and what is known of closed ones."""
