"""The report of every benchmark: one JSON object on standard output, and exit code 1 when a figure misses its bar."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure with its limit: the figure must be at most, or at least, the limit."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the figure is on the right side of the limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def at_most(name: str, value: float, limit: float) -> Bar:
    """A bar for a figure that should be small."""
    return Bar(name, value, limit)


def at_least(name: str, value: float, limit: float) -> Bar:
    """A bar for a figure that should be large."""
    return Bar(name, value, limit, at_least=True)


def finish(benchmark: str, bars: Sequence[Bar], **figures: Any) -> NoReturn:
    """Prints the report and exits: 0 when every bar holds, else 1."""
    report = {
        "benchmark": benchmark,
        "bars": [
            {
                "name": bar.name,
                "value": round(bar.value, 4),
                "limit": bar.limit,
                "comparison": "at least" if bar.at_least else "at most",
                "holds": bar.holds,
            }
            for bar in bars
        ],
        **figures,
        "machine": machine(),
    }
    print(json.dumps(report, indent=2, default=float))
    sys.exit(0 if all(bar.holds for bar in bars) else 1)


def machine() -> dict[str, Any]:
    """The machine that ran the benchmark."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version()}


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share (0 to 1) of the values lies, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median_of(runs: int, measure: Callable[[], float]) -> float:
    """The median of several measurements."""
    return statistics.median(measure() for _ in range(runs))
