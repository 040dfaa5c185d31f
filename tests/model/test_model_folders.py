"""A folder that is not a whole model is refused, with the name of the file at fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument, ModelNotFound
from shortlist_server.inference.catalog import load_models
from shortlist_server.inference.entries import check_models
from shortlist_server.inference.loading import load_embedder, load_reranker

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path: Path) -> None:
    path.unlink()


def make_foreign(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90868376\n")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", [truncate, remove, make_foreign])
def test_a_damaged_file_is_named(tiny_bert: Path, tmp_path: Path, file: str, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    damage(folder / file)
    with pytest.raises(ModelNotFound, match=file):
        load_embedder("it", folder, "", Config(device="cpu", data_dir=tmp_path))


def test_weights_of_another_model_are_refused(tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(ModelNotFound, match=r"not those of its config\.json"):
        load_embedder("it", folder, "", Config(device="cpu", backend="torch"))


def test_a_tokenizer_of_another_model_is_refused(tiny_bert: Path, tmp_path: Path, qwen3_tokenizer_file: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    shutil.copy(qwen3_tokenizer_file, folder / "tokenizer.json")
    with pytest.raises(ModelNotFound, match=r"tokenizer\.json.*another model"):
        load_embedder("it", folder, "", Config(device="cpu"))


def test_pickled_weights_are_not_read(tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match="pickled weights can run code"):
        load_embedder("it", folder, "", Config(device="cpu"))


def test_an_encoder_is_no_reranker(tiny_bert: Path) -> None:
    with pytest.raises(ModelNotFound, match="not a cross-encoder"):
        load_reranker("it", tiny_bert, Config(device="cpu"))


@pytest.mark.parametrize("entry", ["it=/no/such/folder", "it=no-such-organisation/no-such-model", "unknown"])
def test_a_model_that_is_nowhere_is_refused_with_a_remedy(entry: str) -> None:
    with pytest.raises(ModelNotFound, match=r"folder with the model's files|there is no model folder"):
        load_models(Config(embedders=(entry,)))


@pytest.mark.parametrize("changes", [{"device": "abacus"}, {"dtype": "float16"}])
def test_unknown_settings_are_refused(tiny_bert: Path, changes: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="give "):
        check_models(Config(embedders=(f"it={tiny_bert}",)).replace(**changes))
