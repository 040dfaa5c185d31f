"""What a step will cost, said before it begins."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """An estimate; 0 where a step needs none of a kind. Estimates add up with ``+``.

    Attributes:
        seconds: how long it takes on this machine.
        searches: searches that the server answers.
        llm_calls: calls of a language model, those in the cache left out.
        llm_tokens: tokens of these calls, prompts and answers together.
        disk_bytes: bytes that the run folder grows by.
    """

    seconds: float = 0.0
    searches: int = 0
    llm_calls: int = 0
    llm_tokens: int = 0
    disk_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            seconds=self.seconds + other.seconds,
            searches=self.searches + other.searches,
            llm_calls=self.llm_calls + other.llm_calls,
            llm_tokens=self.llm_tokens + other.llm_tokens,
            disk_bytes=self.disk_bytes + other.disk_bytes,
        )

    def line(self) -> str:
        """The estimate as text, such as "about 12 minutes, 4,000 searches"; "nothing to speak of" for none."""
        parts = []
        if self.seconds:
            minutes = self.seconds / 60
            parts.append(f"about {minutes:,.0f} minutes" if minutes >= 1.5 else f"about {self.seconds:,.0f} seconds")
        if self.searches:
            parts.append(f"{self.searches:,} searches")
        if self.llm_calls:
            parts.append(f"up to {self.llm_calls:,} calls of the language model, {self.llm_tokens:,} tokens")
        if self.disk_bytes:
            parts.append(f"{self.disk_bytes / 1e6:,.0f} MB of disk")
        return ", ".join(parts) or "nothing to speak of"
