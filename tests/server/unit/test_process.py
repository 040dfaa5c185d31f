"""What a process does around its server."""

from __future__ import annotations

import asyncio
import gc
import os
import signal

import pytest

from shortlist_server import process
from shortlist_server.config import Config


class Idle:
    """A server that is ready at once, and is told to stop a moment later."""

    frozen = 0

    def __init__(self, config: Config) -> None:
        self.made_at_start = [config]

    async def start(self) -> int:
        asyncio.get_running_loop().call_later(0.05, self._tell)
        return 1

    def _tell(self) -> None:
        Idle.frozen = gc.get_freeze_count()
        os.kill(os.getpid(), signal.SIGTERM)

    async def stop(self, grace_seconds: float) -> None:
        pass


def test_collections_of_garbage_leave_out_what_the_start_made(capsys: pytest.CaptureFixture[str]) -> None:
    gc.collect()
    tracked = len(gc.get_objects())
    try:
        asyncio.run(process._serve(Idle, Config()))
        assert Idle.frozen > tracked // 2
    finally:
        gc.unfreeze()
    assert "shortlist serving on" in capsys.readouterr().out
