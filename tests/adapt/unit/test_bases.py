"""Which models a run starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from shortlist_adapt import corpus
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.training.bases import embedder_base, reranker_base


def run(tmp_path: Path, embedder: str) -> RunFolder:
    """A run whose collection was served by this embedder."""
    folder = RunFolder(tmp_path / "run")
    folder.prepare()
    folder.note_done(corpus.STEP, "fingerprint", {"embedder": embedder})
    return folder


def test_the_serving_embedder_is_the_base_unless_another_is_named(tmp_path: Path, minilm: Path) -> None:
    folder = run(tmp_path, "all-MiniLM-L6-v2")
    other = tmp_path / "other"
    other.mkdir()
    assert embedder_base(folder, "") == minilm
    assert embedder_base(folder, str(other)) == other
    assert embedder_base(run(tmp_path / "b", "mine"), "all-MiniLM-L6-v2") == minilm


def test_the_reranker_starts_from_the_base_of_the_embedder(tmp_path: Path, minilm: Path) -> None:
    folder = run(tmp_path, "all-MiniLM-L6-v2")
    names = [tmp_path / name for name in ("one", "two")]
    for path in names:
        path.mkdir()
    assert reranker_base(folder, "", "") == minilm
    assert reranker_base(folder, "", str(names[0])) == names[0]
    assert reranker_base(folder, str(names[1]), str(names[0])) == names[1]


def test_a_model_that_only_the_server_finds_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="name its folder with --embedder-base"):
        embedder_base(run(tmp_path, "mine"), "")
    with pytest.raises(InvalidInput, match=r"there is no model folder \./gone") as raised:
        embedder_base(run(tmp_path, "mine"), "./gone")
    assert "--embedder-base" not in str(raised.value)
    with pytest.raises(InvalidInput, match="no exported collection"):
        embedder_base(RunFolder(tmp_path / "nothing"), "")
