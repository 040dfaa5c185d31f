"""Models, and the schedulers that feed them."""
