"""Opens collections on first use, closes idle ones, and answers for closed ones."""
