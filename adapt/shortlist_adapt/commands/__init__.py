"""The commands ``shortlist adapt STEP``: they read options, show cost and progress, and call the step."""

from __future__ import annotations
