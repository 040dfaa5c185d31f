"""Shortlist's typed Python client."""
