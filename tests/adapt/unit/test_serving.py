"""Training follows the collection: its passages, its instruction, the size of its vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shortlist_adapt import corpus
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.training.served_texts import ServedTexts, read_base
from shortlist_adapt.training.serving import Serving, read_serving, trained_sizes
from shortlist_adapt.training.settings import EmbedderTraining
from shortlist_server.domain import Chunking
from shortlist_server.inference.catalog import bundled_minilm

NOTED = {"instruction": "Find it", "dimension": 256, "passage_tokens": 64, "overlap_tokens": 8}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    folder.note_done(corpus.STEP, "it", NOTED)
    return folder


def test_what_the_settings_leave_open_is_the_collections(folder: RunFolder) -> None:
    expected = Serving(instruction="Find it", chunking=Chunking(max_tokens=64, overlap_tokens=8), dimension=256)
    assert read_serving(folder, EmbedderTraining()) == expected


def test_settings_come_before_the_collection(folder: RunFolder) -> None:
    settings = EmbedderTraining(instruction="Find that", passage_tokens=100, overlap_tokens=3)
    expected = Serving(instruction="Find that", chunking=Chunking(max_tokens=100, overlap_tokens=3), dimension=256)
    assert read_serving(folder, settings) == expected


def test_before_an_export_the_model_decides(tmp_path: Path) -> None:
    assert read_serving(RunFolder(tmp_path), EmbedderTraining()) == Serving()
    assert ServedTexts(read_base(bundled_minilm())).chunking == Chunking(max_tokens=128, overlap_tokens=16)


def test_passages_have_the_collections_size(folder: RunFolder) -> None:
    texts = ServedTexts(read_base(bundled_minilm()), read_serving(folder, EmbedderTraining()))
    pieces = texts.cut("Title", "some words of a long text " * 100)
    assert 60 < max(texts.count(pieces)) <= 64


def test_the_stored_size_and_those_a_model_may_be_cut_to_are_trained() -> None:
    minilm = read_base(bundled_minilm())
    cuttable = replace(minilm, dimension=1024, min_dimension=32)
    wished = EmbedderTraining(dimensions=(100,))
    assert trained_sizes(minilm, Serving(), EmbedderTraining()) == [384]
    assert trained_sizes(minilm, Serving(dimension=384), EmbedderTraining()) == [384]
    assert trained_sizes(minilm, Serving(dimension=256), wished) == [100, 256, 384]
    assert trained_sizes(cuttable, Serving(), EmbedderTraining()) == [64, 128, 256, 512, 1024]
    assert trained_sizes(cuttable, Serving(), wished) == [100, 1024]
