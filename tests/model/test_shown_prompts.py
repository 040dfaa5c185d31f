"""What a model puts in front of texts is shown to whoever asks the server: by the SDK and on the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shortlist import Client
from shortlist_server.testing import server

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def test_the_prompts_of_a_model_are_shown(tiny_bert: Path, tmp_path: Path, layout_writer: Any) -> None:
    folder = tmp_path / "models--intfloat--e5-small-v2" / "snapshots" / "0123abcd"
    shutil.copytree(tiny_bert, folder)
    layout_writer[0](folder, {"pooling_mode_mean_tokens": True}, 64)
    settings = {"device": "cpu", "backend": "torch", "embedders": (f"it={folder}", "hashing")}
    with server(tmp_path / "data", **settings) as running:
        with Client(running.target) as client:
            it, hashing = client.server_info().embedders
        command = [sys.executable, "-m", "shortlist_cli", "info", "--target", running.target]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        values = json.loads(subprocess.run([*command, "--json"], capture_output=True, timeout=60, check=True).stdout)
    assert (it.query_prompt, it.passage_prompt) == ("query: ", "passage: ")
    assert (hashing.query_prompt, hashing.passage_prompt) == ("", "")
    assert 'prompts of it\t"query: " before queries, "passage: " before passages' in shown
    assert values["embedders"][0]["query_prompt"] == "query: "
