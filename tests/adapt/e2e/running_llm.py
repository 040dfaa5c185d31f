"""The scripted LLM in a process of its own, as tests see it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class ScriptedLlm:
    """The server of ``scripted_llm.py``."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def log(self) -> list[dict[str, Any]]:
        """The requests since the reset: ``path``, ``headers`` and ``fields``."""
        logged: list[dict[str, Any]] = self._call("/log")
        return logged

    def reset(self) -> None:
        """Forgets the requests, and which of them came before."""
        self._call("/reset", b"{}")

    def _call(self, path: str, body: bytes | None = None) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", body, timeout=10) as answer:
            return json.loads(answer.read())


@contextmanager
def running_llm() -> Iterator[ScriptedLlm]:
    """Starts the process, and ends it."""
    script = Path(__file__).with_name("scripted_llm.py")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield ScriptedLlm(int(process.stdout.readline()))
        finally:
            process.kill()
