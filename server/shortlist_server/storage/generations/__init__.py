"""The generations of an open collection: reads, builds, switches and drops them."""
