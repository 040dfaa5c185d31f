"""Exports: made once, whole or not at all, checked against torch, served without torch."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.domain import NO_MODEL
from shortlist_server.errors import ModelMismatch, ModelNotFound, OutOfSpace, Unavailable
from shortlist_server.inference import agreement, export_process, layout, onnx_backend
from shortlist_server.inference.export_process import load_exporting_in_child
from shortlist_server.inference.forward_passes import ExportMissing
from shortlist_server.inference.loaded_models import LoadedModels
from shortlist_server.inference.loading import load_embedder
from shortlist_server.inference.services import ScheduledEmbedder
from shortlist_server.observe import progress

from .conftest import embedded

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

START = """
import json, sys
from functools import partial
from pathlib import Path
from shortlist_server.config import Config
from shortlist_server.inference.catalog import load_models
load_models(Config(data_dir=Path(sys.argv[1]))).close()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def config(data: Path, dtype: str = "float32") -> Config:
    return Config(device="cpu", backend="onnx", dtype=dtype, data_dir=data)


def exported(data: Path) -> Path:
    (folder,) = (data / "models").iterdir()
    return folder


def test_nothing_is_noted_for_the_makers_of_the_runtime(tmp_path: Path) -> None:
    """Its telemetry would keep a device's id and its events in the caller's home."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    command = [sys.executable, "-c", START, str(tmp_path / "data")]
    subprocess.run(command, env=environment | {"HOME": str(home)}, check=True, capture_output=True, timeout=100)
    assert "onnxruntime" not in str([*home.rglob("*")])


def test_a_cached_export_is_served_without_torch(minilm: Path, tmp_path: Path) -> None:
    load_embedder("it", minilm, "", config(tmp_path, "auto"))
    run = subprocess.run([sys.executable, "-c", START, str(tmp_path)], capture_output=True, text=True, check=True)
    modules = set(json.loads(run.stdout))
    assert "onnxruntime" in modules
    assert not modules & {"torch", "transformers", "onnx", "sentence_transformers"}


def test_an_export_is_made_once_and_leaves_nothing_else(tiny_bert: Path, tmp_path: Path) -> None:
    load_embedder("it", tiny_bert, "", config(tmp_path))
    model = exported(tmp_path) / "model.onnx"
    before = model.stat().st_mtime_ns
    load_embedder("it", tiny_bert, "", config(tmp_path))
    assert model.stat().st_mtime_ns == before


def test_changed_weights_find_no_export_of_the_former_ones(tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    load_embedder("it", folder, "", config(tmp_path))
    load_embedder("it", folder, "", config(tmp_path), export=False)
    weights = folder / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-4] ^= 1  # the last bit of the last number
    weights.write_bytes(changed)
    with pytest.raises(ExportMissing):
        load_embedder("it", folder, "", config(tmp_path), export=False)


def test_what_a_killed_export_left_goes_with_the_next_one(tiny_bert: Path, tmp_path: Path) -> None:
    old, young = (tmp_path / "models" / f".export-{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"half")
    os.utime(old, (0, 0))
    load_embedder("it", tiny_bert, "", config(tmp_path))
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize("file", ["model.onnx", "export.json"])
def test_a_torn_export_is_made_again(tiny_bert: Path, tmp_path: Path, file: str) -> None:
    first = embedded(load_embedder("it", tiny_bert, "", config(tmp_path)), ["a text"])
    torn = exported(tmp_path) / file
    torn.write_bytes(torn.read_bytes()[:-20])
    again = embedded(load_embedder("it", tiny_bert, "", config(tmp_path)), ["a text"])
    assert np.array_equal(first[0].vector, again[0].vector)


def test_an_export_that_disagrees_is_never_served(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "MIN_COSINE", 1.5)
    for _ in range(2):
        with pytest.raises(ModelNotFound, match="does not agree with the original"):
            load_embedder("it", tiny_bert, "", config(tmp_path))
    assert not (exported(tmp_path) / "model.onnx").exists()


def test_auto_falls_back_to_float32_where_int8_disagrees(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "MIN_COSINE", 0.99999)
    embedder = load_embedder("it", tiny_bert, "", config(tmp_path, "auto"))
    assert embedder.info.number_format == "float32"
    assert "as int8 it does not agree with the original: mean cosine 0.9" in embedder.info.number_format_note
    reports = [json.loads((folder / "export.json").read_text()) for folder in (tmp_path / "models").iterdir()]
    assert {report["precision"]: report["refused"] for report in reports} == {"int8": True, "float32": False}


def test_a_server_never_loads_torch_not_even_to_make_an_export(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", START, str(tmp_path)], capture_output=True, text=True, check=True)
    assert exported(tmp_path).name.endswith(f"-int8-{onnx_backend.FORMAT}")
    assert not set(json.loads(run.stdout)) & {"torch", "transformers", "onnx", "sentence_transformers"}


def test_an_export_that_fails_elsewhere_fails_here_with_the_same_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such model"):
        load_exporting_in_child(partial(refuse, "no such model"))


def test_an_exporting_process_that_is_killed_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="was killed, probably for lack of memory"):
        load_exporting_in_child(die)


def test_an_exporting_process_that_fails_is_not_said_to_lack_memory(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"converts it ended with code 1; its output above says why"):
        load_exporting_in_child(stumble, "it")


def test_an_export_says_what_it_does_and_how_far_it_is(
    tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger=progress.LOGGER):
        load_exporting_in_child(partial(load_embedder, "it", tiny_bert, "", config(tmp_path, "int8")), "it")
    told = [record.getMessage() for record in caplog.records if record.name == progress.LOGGER]
    told = [line for line in told if ": still " not in line]  # a machine that is busy takes its time
    assert told[:5] == [
        "it is converted for this machine's processor, which is done once",
        "it: loading torch and the weights (step 1 of 4)",
        "it: tracing (step 2 of 4)",
        "it: quantising to int8 (step 3 of 4)",
        "it: comparing with the original (step 4 of 4)",
    ]
    assert told[5].startswith("it: compared with the original: mean cosine 0.99")
    assert told[6].startswith("it was converted in ")


def test_a_step_that_takes_long_is_said_to_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(export_process, "_SILENT_SECONDS", 0.05)
    with caplog.at_level(logging.INFO, logger=progress.LOGGER), pytest.raises(ModelNotFound, match="no such model"):
        load_exporting_in_child(partial(refuse, "no such model"), "it")
    assert "it: still starting, after 0 s" in [record.getMessage() for record in caplog.records]


def test_an_export_is_not_begun_without_room_for_it(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_backend, "_EXPORT_FACTOR", 10**9)
    with pytest.raises(OutOfSpace, match=r"converting a model takes about \d+ MB in .* free some space"):
        load_exporting_in_child(partial(load_embedder, "it", tiny_bert, "", config(tmp_path)))
    assert not [*tmp_path.iterdir()]


def test_an_export_that_cannot_be_written_says_where(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(Unavailable, match=f"cannot be converted in {tmp_path / 'models'}"):
        load_embedder("it", tiny_bert, "", config(tmp_path))


def test_the_number_format_is_no_part_of_the_revision(tiny_bert: Path, tmp_path: Path) -> None:
    infos = [load_embedder("it", tiny_bert, "", config(tmp_path, dtype)).info for dtype in ("int8", "float32")]
    assert [info.number_format for info in infos] == ["int8", "float32"]
    assert infos[0].revision == infos[1].revision


def test_a_collection_of_an_earlier_release_keeps_its_embedder(tiny_bert: Path, tmp_path: Path) -> None:
    """Earlier releases counted the number format into the revision."""
    service = ScheduledEmbedder(load_embedder("it", tiny_bert, "", config(tmp_path)))
    models = LoadedModels([service], {}, NO_MODEL)
    formats = ("int8-rows", "float32", "bfloat16")
    for revision in [layout.revision(tiny_bert, (one, "", "", "mean")) for one in formats] + [service.info.revision]:
        assert models.embedder("it", revision) is service
    with pytest.raises(ModelMismatch, match="made with revision another"):
        models.embedder("it", "another")
    models.close()


def refuse(message: str, *, export: bool) -> None:
    print("what a library has to say")
    raise ModelNotFound(message) if export else ExportMissing


def stumble(*, export: bool) -> None:
    raise RuntimeError("a bug") if export else ExportMissing


def die(*, export: bool) -> None:
    if not export:
        raise ExportMissing
    os.kill(os.getpid(), signal.SIGKILL)
