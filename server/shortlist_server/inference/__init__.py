"""Models and the lanes that feed them."""
