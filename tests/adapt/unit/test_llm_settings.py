"""Settings that cannot work are refused before any request, and no key is among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shortlist_adapt.costs import Cost
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.records import CorpusDocument
from shortlist_adapt.settings import from_json, to_json
from shortlist_adapt.synthesis.llm.endpoint import checked_url, read_key, sends_key_in_the_clear
from shortlist_adapt.synthesis.llm.settings import LlmSettings, check, extra_fields, word_range
from shortlist_adapt.synthesis.llm.source import llm_source
from shortlist_adapt.synthesis.settings import SynthesisSettings
from shortlist_adapt.synthesis.synthesise import sources_of

URL = "http://localhost:8000/v1"


def settings(**changes: Any) -> LlmSettings:
    return LlmSettings(**({"url": URL, "model": "m"} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "needs a model"),
        ({"key_file": Path("k"), "key_variable": "K"}, "two are given"),
        ({"languages": ()}, "languages of the LLM's queries are missing"),
        ({"languages": ("German",)}, "'German' is neither an ISO 639-1 code such as 'de' nor 'document'"),
        ({"lengths": ()}, "lengths of the LLM's queries are missing"),
        ({"lengths": ("9-3",)}, "'9-3' is not a range of words"),
        ({"extra": "{"}, "extra fields are not JSON"),
        ({"extra": "[1]"}, "extra fields are not a JSON object"),
        ({"types": ("poem",)}, "'poem' is not in types.txt"),
        ({"url": "localhost:8000"}, "is not a URL such as http://localhost:8000/v1"),
        ({"url": "ftp://host/v1"}, "is not a URL"),
        ({"url": "http://"}, "is not a URL"),
        ({"url": "http://[::1"}, "is not a URL"),
        ({"url": "http://me:secret@host/v1"}, "holds a password"),
        ({"key_variable": "NO_SUCH_VARIABLE_IS_SET"}, "the variable NO_SUCH_VARIABLE_IS_SET has no key"),
        ({"key_file": Path("missing.key")}, "the key file missing.key cannot be read"),
        ({"url": "", "model": "no-folder"}, "no-folder is not the folder of a model"),
    ],
)
def test_what_cannot_work_is_refused_at_once(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        llm_source(settings(**changes), RunFolder(tmp_path), seed=0)
    assert list(tmp_path.iterdir()) == []


def test_settings_come_back_from_json() -> None:
    made = settings(languages=("de", "en"), key_file=Path("k"), lengths=("3-5",), extra='{"top_p": 0.9}')
    assert from_json(LlmSettings, json.loads(json.dumps(to_json(made)))) == made


def test_ranges_and_extra_fields_are_read() -> None:
    assert word_range("3-12") == (3, 12)
    assert word_range("5-5") == (5, 5)
    assert extra_fields(settings()) == {}
    assert extra_fields(settings(extra='{"top_p": 0.9}')) == {"top_p": 0.9}
    check(settings())


def test_a_key_is_read_from_a_file_or_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("abc-123\n")
    monkeypatch.setenv("MY_KEY", " def-456 ")
    assert read_key(settings()) == ""
    assert read_key(settings(key_file=tmp_path / "key")) == "abc-123"
    assert read_key(settings(key_variable="MY_KEY")) == "def-456"


@pytest.mark.parametrize("text", ["", "\n", "two words", "two\nlines", "Schlüssel"])
def test_what_is_no_key_is_not_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput, match="has no key: one line of printable ASCII characters is expected") as caught:
        read_key(settings(key_file=tmp_path / "key"))
    assert not text.strip() or text not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "key", "clear"),
    [
        ("http://host/v1", "K", True),
        ("http://10.0.0.8:80/v1", "K", True),
        ("http://host/v1", "", False),
        ("https://host/v1", "K", False),
        ("http://localhost:8000/v1", "K", False),
        ("http://127.0.0.9:8000/v1", "K", False),
        ("http://[::1]:8000/v1", "K", False),
    ],
)
def test_a_key_that_would_cross_a_network_in_the_clear_is_noticed(url: str, key: str, clear: bool) -> None:
    assert sends_key_in_the_clear(settings(url=checked_url(url), key_variable=key)) is clear


def test_there_is_an_llm_only_where_a_model_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert "llm" not in [source.name for source in sources_of(SynthesisSettings(), run, seed=0)]
    assert sources_of(SynthesisSettings(llm=settings()), run, seed=0)[-1].name == "llm"


def test_the_cost_counts_both_calls_of_every_query_and_stops_at_the_budget(tmp_path: Path) -> None:
    documents = [CorpusDocument(id=str(index), title="", text="word " * 200) for index in range(40)]
    whole = llm_source(settings(documents=0, per_document=2), RunFolder(tmp_path), seed=0).cost(documents)
    assert whole.llm_calls == 160
    assert 160 * 400 < whole.llm_tokens < 160 * 1500
    assert whole.seconds > 0
    part = llm_source(settings(documents=10, per_document=2), RunFolder(tmp_path), seed=0).cost(documents)
    assert (part.llm_calls, part.llm_tokens) == (whole.llm_calls // 4, whole.llm_tokens // 4)
    bound = llm_source(settings(documents=0, budget_tokens=10_000), RunFolder(tmp_path), seed=0).cost(documents)
    assert bound.llm_tokens == 10_000
    assert 0 < bound.llm_calls < 80
    assert llm_source(settings(), RunFolder(tmp_path), seed=0).cost([]) == Cost()
