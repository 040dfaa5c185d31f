"""One real server with the hashing embedder for each test module that asks for ``target``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist_server.testing import server


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("data")
    with server(data_dir=folder) as running:
        yield running.target
