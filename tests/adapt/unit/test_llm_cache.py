"""Answers survive a kill, and a damaged file says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.synthesis.llm.cache import AnswerCache
from shortlist_adapt.synthesis.llm.chat import Answer, Request

ANSWER = Answer(text='{"query": "Brötchen \ud83d"}', prompt_tokens=10, answer_tokens=5, complete=False)


def opened(path: Path) -> AnswerCache:
    return AnswerCache(path / "llm" / "answers.jsonl")


def test_an_answer_is_there_after_reopening(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    assert cache.get("k") is None
    cache.put("k", ANSWER)
    cache.close()
    again = opened(tmp_path)
    assert again.get("k") == ANSWER
    assert len(again) == 1
    again.close()


def test_the_first_answer_stays(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.put("k", ANSWER)
    cache.put("k", Answer(text="other", prompt_tokens=1, answer_tokens=1))
    assert cache.get("k") == ANSWER
    cache.close()


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, kept: int) -> None:
    cache = opened(tmp_path)
    for key in ("a", "b"):
        cache.put(key, ANSWER)
    cache.close()
    path = tmp_path / "llm" / "answers.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:kept])
    again = opened(tmp_path)
    assert (again.get("a"), again.get("b")) == (ANSWER, None)
    again.put("c", ANSWER)
    again.close()
    last = opened(tmp_path)
    assert [last.get(key) for key in "abc"] == [ANSWER, None, ANSWER]
    last.close()


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    with pytest.raises(InvalidInput, match="is in use: another process asks the LLM for this run"):
        opened(tmp_path)
    cache.close()
    opened(tmp_path).close()


@pytest.mark.parametrize("line", ["{}", "[]", "nonsense", '{"key": "k", "text": "x"}', '{"text": "x"}'])
def test_a_line_that_is_no_answer_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "llm" / "answers.jsonl"
    path.parent.mkdir()
    path.write_text(line + "\n")
    with pytest.raises(InvalidInput, match=r"answers\.jsonl, line 1: not an answer"):
        opened(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "llm").write_text("a file")
    with pytest.raises(InvalidInput, match="cannot be written"):
        opened(tmp_path)


def test_the_key_depends_on_all_that_is_asked() -> None:
    request = Request(system="s", user="u", schema={"type": "object"}, max_tokens=9, temperature=0.5, seed=1)
    changed = [
        Request(system="u", user="s", schema={"type": "object"}, max_tokens=9, temperature=0.5, seed=1),
        Request(system="s", user="u", schema={}, max_tokens=9, temperature=0.5, seed=1),
        Request(system="s", user="u", schema={"type": "object"}, max_tokens=8, temperature=0.5, seed=1),
        Request(system="s", user="u", schema={"type": "object"}, max_tokens=9, temperature=0.0, seed=1),
        Request(system="s", user="u", schema={"type": "object"}, max_tokens=9, temperature=0.5, seed=2),
    ]
    keys = {request.key("m"), request.key("n"), *(other.key("m") for other in changed)}
    assert len(keys) == 7
    assert request.key("m") == request.key("m")
