"""Fuses and judges rankings: pure functions that searches and evaluation share."""
