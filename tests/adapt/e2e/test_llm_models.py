"""Queries from a checkpoint: run here by transformers, and served by ``transformers serve`` in a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.progress import Silent
from shortlist_adapt.records import CorpusDocument
from shortlist_adapt.synthesis.llm.settings import LlmSettings
from shortlist_adapt.synthesis.llm.source import llm_source
from shortlist_adapt.synthesis.source import Draft

from .tiny_llm import BREAD, SHIP, make_tiny_llm

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

DOCUMENTS = [
    CorpusDocument(id="bread", title="Bread", text="Wild yeast ferments the flour. <choose> The dough grows at night."),
    CorpusDocument(id="ship", title="Ships", text="The keel and the rudder keep a ship from drifting in the wind."),
    CorpusDocument(id="empty", title="", text="1234"),
]
START_SECONDS = 90.0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llm(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One person, one type and one level: what the tiny model can choose."""
    folder = tmp_path_factory.mktemp("prompts")
    for name, line in (
        ("characters", "Baker: bakes bread and rolls at night"),
        ("types", "fact: a question with one answer"),
        ("levels", "expert: knows the exact terms"),
    ):
        (folder / f"{name}.txt").write_text(line + "\n", encoding="utf-8")
    return folder


def made(folder: Path, prompts: Path, **changes: Any) -> tuple[list[Draft], Mapping[str, int]]:
    settings = LlmSettings(**{"prompts": prompts, "max_answer_tokens": 20, **changes})
    source = llm_source(settings, RunFolder(folder), seed=0)
    return list(source.drafts(DOCUMENTS, Silent())), source.figures()


def test_a_model_on_this_machine_writes_a_query_for_each_document(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    drafts, figures = made(tmp_path, prompts, model=str(tiny))
    assert [(draft.text, dict(draft.positives)) for draft in drafts] == [
        (BREAD["query"], {"bread": 1}),
        (SHIP["query"], {"ship": 1}),
    ]
    assert drafts[0].provenance["model"].startswith("tiny@")
    assert drafts[0].provenance["difficulty"] == "expert"
    assert (figures["rejected: no text"], figures["calls"]) == (1, 4)
    again, same = made(tmp_path, prompts, model=str(tiny))
    assert (again, same) == (drafts, figures)


def test_other_weights_are_another_model(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    other = tmp_path / "tiny"
    shutil.copytree(tiny, other)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * torch.tensor(2.0)
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    names = {made(tmp_path / "run", prompts, model=str(folder))[0][0].provenance["model"] for folder in (tiny, other)}
    assert len(names) == 2


def test_a_prompt_beyond_the_models_window_is_left_out(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    from shortlist_adapt.synthesis.llm.chat import EndpointFailed

    with pytest.raises(EndpointFailed, match="exceed the model's 8192"):
        made(tmp_path, prompts, model=str(tiny), max_answer_tokens=8192)


def test_a_model_without_a_chat_template_is_refused(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    import json

    plain = tmp_path / "plain"
    shutil.copytree(tiny, plain)
    settings = json.loads((plain / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (plain / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InvalidInput, match="has no chat template; take a model that is tuned to follow instructions"):
        made(tmp_path / "run", prompts, model=str(plain))


def test_a_folder_that_is_no_language_model_is_refused(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not the folder of a model; to ask a server, give its URL too"):
        made(tmp_path / "run", prompts, model=str(prompts))
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="is not a causal language model"):
        made(tmp_path / "run", prompts, model=str(broken))


@contextmanager
def served(model: Path) -> Iterator[str]:
    """``transformers serve`` with the checkpoint; gives its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import app; app()", "serve", str(model)]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            until = time.monotonic() + START_SECONDS
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                        break
                except (urllib.error.URLError, OSError):
                    assert process.poll() is None, process.communicate()[0].decode()
                    assert time.monotonic() < until, "transformers serve did not start"
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


@pytest.mark.skipif(
    not (find_spec("fastapi") and find_spec("uvicorn")) and not os.environ.get("CI"),
    reason="transformers serve needs fastapi and uvicorn",
)
def test_transformers_serve_gives_the_queries_of_the_model_itself(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    here, _ = made(tmp_path / "here", prompts, model=str(tiny))
    with served(tiny) as url:
        there, figures = made(tmp_path / "there", prompts, model=str(tiny), url=url, concurrency=2)
    assert [(draft.text, draft.positives) for draft in there] == [(draft.text, draft.positives) for draft in here]
    assert figures["queries"] == 2
