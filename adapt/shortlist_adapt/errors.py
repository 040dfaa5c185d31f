"""What a step raises. The message says what was wrong and what to do; commands show it as one line."""

from __future__ import annotations


class AdaptError(Exception):
    """A step cannot begin or go on.

    Attributes:
        exit_code: what a command ends with.
    """

    exit_code = 1


class InvalidInput(AdaptError):
    """A file, an option or an answer is malformed. The message names it, and the line where there is one."""


class BudgetSpent(AdaptError):
    """The budget of tokens is used up. What was made so far is kept."""


class GateRefused(AdaptError):
    """The candidate is not better than what serves, or a guarded set fell. The message gives the reason."""

    exit_code = 4
