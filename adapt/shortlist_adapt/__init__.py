"""Adaptation: from a served collection to a published model that has learned the collection's texts.

Each step is a function here and a command ``shortlist adapt STEP``. It reads and writes plain files of a run folder
(see ``folder``). It may be killed at any moment; run again, it goes on and gives the result of an undisturbed run.
"""

from __future__ import annotations
