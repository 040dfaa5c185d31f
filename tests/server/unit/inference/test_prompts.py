"""Prompts come from a model's own files, by whatever names they have there, before what its card is known to demand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.known_models import KnownModel
from shortlist_server.inference.prompts import read_prompts

KNOWN = KnownModel(names="it", query="known query: ", passage="known passage: ")


def write(folder: Path, prompts: Any, default: Any = None) -> Path:
    settings = {"prompts": prompts, "default_prompt_name": default}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("prompts", "default", "expected"),
    [
        ({"query": "q: ", "document": "d: "}, None, ("q: ", "d: ")),
        ({"query": "q: ", "passage": "p: "}, None, ("q: ", "p: ")),
        ({"query": "q: ", "document": "", "passage": "p: "}, None, ("q: ", "p: ")),
        ({"search_query": "q: ", "search_document": "d: ", "clustering": "c: "}, None, ("q: ", "d: ")),
        ({"retrieval.query": "q: ", "retrieval.passage": "p: "}, None, ("q: ", "p: ")),
        ({"Retrieval-query": "q: ", "Retrieval-document": "d: "}, None, ("q: ", "d: ")),
        ({"web_search_query": "q: ", "sts_query": "s: "}, None, ("q: ", "")),
        ({"s2p_query": "q: ", "s2s_query": "s: "}, None, ("q: ", "")),
        ({"query": "q: ", "corpus": "c: "}, None, ("q: ", "c: ")),
        ({"query": "q: "}, "query", ("q: ", "")),
        ({"query": "q: ", "document": "d: "}, "document", ("q: ", "d: ")),
        ({"retrieval": "r: "}, "retrieval", ("r: ", "r: ")),
        ({"query": "q: ", "retrieval": "r: "}, "retrieval", ("q: ", "r: ")),
        ({"query": None, "document": ""}, None, ("known query: ", "known passage: ")),
        ({"clustering": "c: "}, None, ("known query: ", "known passage: ")),
        ({}, None, ("known query: ", "known passage: ")),
    ],
)
def test_prompts_are_found_by_their_names(
    tmp_path: Path, prompts: dict[str, str], default: str | None, expected: tuple[str, str]
) -> None:
    found = read_prompts(write(tmp_path, prompts, default), KNOWN)
    assert (found.query, found.passage) == expected


def test_without_a_file_the_card_holds_and_then_the_fallback(tmp_path: Path) -> None:
    assert read_prompts(tmp_path, KNOWN, "otherwise: ").query == "known query: "
    assert read_prompts(tmp_path, KnownModel(names=""), "otherwise: ").query == "otherwise: "


@pytest.mark.parametrize("tail", ["\nQuery: ", "\nQuery:"])
def test_an_instruction_takes_the_place_of_the_one_in_the_files(tmp_path: Path, tail: str) -> None:
    prompts = read_prompts(write(tmp_path, {"query": f"Instruct: Find passages{tail}"}), KNOWN)
    assert prompts.for_query("") == f"Instruct: Find passages{tail}"
    assert prompts.for_query("Find poems") == f"Instruct: Find poems{tail}"


def test_an_instruction_is_nothing_to_a_model_with_a_plain_prompt(tmp_path: Path) -> None:
    assert read_prompts(write(tmp_path, {"query": "query: "}), KNOWN).for_query("Find poems") == "query: "


@pytest.mark.parametrize("prompts", [["query: "], {"query": 5}, {"query": {"en": "query: "}}, "query: "])
def test_what_is_no_prompt_is_refused(tmp_path: Path, prompts: Any) -> None:
    with pytest.raises(ModelNotFound, match=r"config_sentence_transformers\.json has prompts that are not texts"):
        read_prompts(write(tmp_path, prompts), KNOWN)


@pytest.mark.parametrize("default", ["queries", ["query"], 5])
def test_a_default_that_is_not_there_is_refused(tmp_path: Path, default: Any) -> None:
    with pytest.raises(ModelNotFound, match="not among its prompts"):
        read_prompts(write(tmp_path, {"query": "query: "}, default), KNOWN)
