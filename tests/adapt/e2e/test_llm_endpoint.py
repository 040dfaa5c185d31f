"""Queries from an OpenAI-compatible server in a process of its own: late, wrong, 429, 500, killed, over budget."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shortlist_adapt.costs import Cost
from shortlist_adapt.errors import AdaptError, BudgetSpent, InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.progress import Silent
from shortlist_adapt.records import CorpusDocument
from shortlist_adapt.synthesis.llm.chat import EndpointFailed, EndpointRefused
from shortlist_adapt.synthesis.llm.settings import LlmSettings
from shortlist_adapt.synthesis.llm.source import llm_source
from shortlist_adapt.synthesis.source import Draft

from .running_llm import ScriptedLlm

SUBJECTS = ("baker", "beekeeper", "sailor", "geologist", "carpenter", "astronomer")
DOCUMENTS = [
    CorpusDocument(
        id=f"{subject}-{index}",
        title=f"The {subject}, part {index}",
        text=f"Every {subject} learns method{index} before sunrise. Patience matters more than strength{index} there.",
    )
    for index in range(2)
    for subject in SUBJECTS
]


class Lines(Silent):
    """Keeps the lines that stay."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def settings(llm: ScriptedLlm, model: str = "good", **changes: Any) -> LlmSettings:
    return LlmSettings(**{"url": llm.url, "model": model, "temperature": 0.5, **changes})


def made(
    llm: ScriptedLlm, folder: Path, model: str = "good", *, seed: int = 0, **changes: Any
) -> tuple[list[Draft], Mapping[str, int]]:
    source = llm_source(settings(llm, model, **changes), RunFolder(folder), seed=seed)
    drafts = list(source.drafts(DOCUMENTS, Silent()))
    return drafts, source.figures()


def texts(drafts: list[Draft]) -> list[tuple[str, str]]:
    return [(next(iter(draft.positives)), draft.text) for draft in drafts]


def rejected(folder: Path) -> list[dict[str, str]]:
    path = RunFolder(folder).cache / "llm" / "rejected.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_document_has_a_query_in_its_place_that_says_where_it_comes_from(
    llm: ScriptedLlm, tmp_path: Path
) -> None:
    drafts, figures = made(llm, tmp_path)
    assert [list(draft.positives.items()) for draft in drafts] == [[(document.id, 1)] for document in DOCUMENTS]
    assert (figures["documents"], figures["queries"], figures["calls"]) == (12, 12, 24)
    first = drafts[0]
    assert first.source == "llm"
    assert first.language == ""
    assert first.kind in {"keyword", "fact", "explanation", "overview", "claim", "problem"}
    assert {draft.provenance["model"] for draft in drafts} == {"good"}
    assert first.provenance["query_prompt"].startswith("query.txt@")
    assert first.provenance["difficulty"] in {"newcomer", "informed", "expert"}
    assert first.provenance["character"]
    assert len({draft.provenance["character"] for draft in drafts}) > 5
    assert figures["tokens"] > 24 * 100


def test_what_is_sent_has_the_schema_the_seed_and_what_was_chosen(llm: ScriptedLlm, tmp_path: Path) -> None:
    (draft, *_), _ = made(llm, tmp_path, documents=1, languages=("de",), lengths=("7-9",), extra='{"top_p": 0.9}')
    configuration, query = (entry["fields"] for entry in llm.log())
    assert draft.language == "de"
    schema = configuration["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert draft.provenance["character"] in schema["schema"]["properties"]["character"]["enum"]
    asked = query["messages"][1]["content"]
    for part in (draft.provenance["character"], draft.kind, draft.provenance["difficulty"], "'de'", "7 to 9 words"):
        assert part in asked
    assert configuration["seed"] != query["seed"]
    assert (query["temperature"], query["max_tokens"], query["top_p"]) == (0.5, 300, 0.9)


def test_a_second_run_asks_nothing_and_gives_the_same(llm: ScriptedLlm, tmp_path: Path) -> None:
    first = made(llm, tmp_path)
    llm.reset()
    assert made(llm, tmp_path) == first
    assert llm.log() == []


def test_the_cost_leaves_out_what_the_cache_has(llm: ScriptedLlm, tmp_path: Path) -> None:
    def cost(**changes: Any) -> Cost:
        return llm_source(settings(llm, **changes), RunFolder(tmp_path), seed=0).cost(DOCUMENTS)

    before = cost()
    assert before.llm_calls == 24
    made(llm, tmp_path, documents=6)
    half = cost()
    assert (half.llm_calls, half.seconds) == (12, before.seconds / 2)
    assert before.llm_tokens * 0.4 < half.llm_tokens < before.llm_tokens * 0.6
    assert cost(temperature=0.1) == before
    _, figures = made(llm, tmp_path)
    assert cost() == cost(budget_tokens=1_000_000) == Cost()
    # The estimate before was of the right size.
    assert figures["tokens"] / 2 < before.llm_tokens < figures["tokens"] * 2


def test_another_seed_gives_other_queries(llm: ScriptedLlm, tmp_path: Path) -> None:
    first, _ = made(llm, tmp_path)
    second, _ = made(llm, tmp_path, seed=1)
    assert texts(first) != texts(second)


def test_several_queries_for_a_document_differ(llm: ScriptedLlm, tmp_path: Path) -> None:
    drafts, figures = made(llm, tmp_path, documents=3, per_document=3)
    assert figures["calls"] == 18
    assert len(drafts) == 9 - figures.get("rejected: repeated for the document", 0)
    assert len({draft.text for draft in drafts}) == len(drafts) > 3


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("429", {}),
        ("500", {}),
        ("broken", {"documents": 6}),
        ("late", {"documents": 4, "timeout_seconds": 0.3, "concurrency": 4}),
        ("wrong", {}),
        ("jitter", {"concurrency": 16}),
        ("429+500+wrong+chatty", {}),
        ("no-usage", {}),
    ],
)
def test_a_server_in_trouble_changes_no_query(
    llm: ScriptedLlm, tmp_path: Path, model: str, changes: dict[str, Any]
) -> None:
    undisturbed, _ = made(llm, tmp_path / "undisturbed", documents=changes.get("documents", 1000), concurrency=1)
    llm.reset()
    drafts, figures = made(llm, tmp_path / "troubled", model, **changes)
    assert texts(drafts) == texts(undisturbed)
    assert len(llm.log()) >= figures["calls"]


def test_an_answer_in_another_form_is_asked_for_again_under_another_seed(llm: ScriptedLlm, tmp_path: Path) -> None:
    _, figures = made(llm, tmp_path, "wrong", documents=1)
    assert figures["calls"] == 4
    seeds = [entry["fields"]["seed"] for entry in llm.log()]
    assert len(set(seeds)) == 4


@pytest.mark.parametrize(
    ("model", "detail"), [("always-wrong", "no JSON object"), ("cut-off", "cut off at 300 tokens")]
)
def test_a_model_that_never_finds_the_form_makes_no_query(
    llm: ScriptedLlm, tmp_path: Path, model: str, detail: str
) -> None:
    drafts, figures = made(llm, tmp_path, model)
    assert drafts == []
    assert figures["rejected: malformed answer"] == len(DOCUMENTS)
    assert {row["document_id"] for row in rejected(tmp_path)} == {document.id for document in DOCUMENTS}
    assert all(detail in row["detail"] for row in rejected(tmp_path))


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ("no-schema", "response_format"),
        ("no-seed", "seed"),
        ("new-names", "max_tokens"),
        ("no-temperature", "temperature"),
        ("no-schema+no-seed+new-names+no-temperature", "seed"),
    ],
)
def test_a_field_that_a_server_does_not_know_is_left_out_from_then_on(
    llm: ScriptedLlm, tmp_path: Path, model: str, field: str
) -> None:
    drafts, _ = made(llm, tmp_path, model, documents=5, concurrency=1)
    assert len(drafts) == 5
    log = llm.log()
    assert field not in log[-1]["fields"]
    assert len(log) == 10 + len(model.split("+"))
    if "new-names" in model:
        assert log[-1]["fields"]["max_completion_tokens"] == 300


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("html", "does not answer like an OpenAI-compatible endpoint"),
        ("torn", "does not answer in JSON"),
        ("empty", "does not answer like an OpenAI-compatible endpoint"),
        ("parts", "answers with a message that is no text"),
        ("down", "answers 503: no model is loaded"),
        ("too-long", "refuses the request: maximum context length is 512 tokens"),
        ("late", "did not answer in 0.05 seconds"),
    ],
)
def test_a_server_that_never_answers_ends_the_step_and_says_why(
    llm: ScriptedLlm, tmp_path: Path, model: str, message: str
) -> None:
    with pytest.raises(EndpointFailed, match=f"{message}.*10 documents in a row got no answer") as caught:
        made(llm, tmp_path, model, retries=0, timeout_seconds=0.05 if model == "late" else 10)
    assert f"http://127.0.0.1:{llm.port}" in str(caught.value)


def test_few_documents_that_get_no_answer_at_all_end_the_step(llm: ScriptedLlm, tmp_path: Path) -> None:
    for model in ("down", "too-long"):
        with pytest.raises(EndpointFailed, match="; 2 documents in a row got no answer"):
            made(llm, tmp_path, model, retries=0, documents=2)


def test_no_server_at_all_ends_the_step(llm: ScriptedLlm, tmp_path: Path) -> None:
    # Port 1 is never bound here: a connection to it is refused at once.
    with pytest.raises(EndpointFailed, match="cannot be reached"):
        made(llm, tmp_path, url="http://127.0.0.1:1/v1", retries=0)


@pytest.mark.parametrize(("model", "reason"), [("mute", "unanswered"), ("strict", "not taken by the endpoint")])
def test_a_document_without_an_answer_is_left_out(llm: ScriptedLlm, tmp_path: Path, model: str, reason: str) -> None:
    drafts, figures = made(llm, tmp_path, model, retries=0)
    assert figures[f"rejected: {reason}"] == 2
    assert len(drafts) == 10
    assert all("beekeeper" in row["document_id"] for row in rejected(tmp_path))


@pytest.mark.parametrize(("model", "message"), [("bad-key", "wants a key"), ("no-model", r"has no model 'no-model'")])
def test_a_wrong_key_or_model_ends_the_step_at_once(llm: ScriptedLlm, tmp_path: Path, model: str, message: str) -> None:
    with pytest.raises(EndpointRefused, match=message):
        made(llm, tmp_path, model, concurrency=1)
    assert len(llm.log()) == 1


def test_the_key_is_sent_and_stands_nowhere(llm: ScriptedLlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-very-secret"
    (tmp_path / "key").write_text(key)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another-service")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-another-service")
    with pytest.raises(EndpointRefused) as caught:
        made(llm, tmp_path / "run", "bad-key", key_file=tmp_path / "key")
    assert "refuses the key: wrong key: [key]" in str(caught.value)
    assert key not in "".join(traceback.format_exception(caught.value))
    made(llm, tmp_path / "run", documents=1, key_file=tmp_path / "key")
    headers = {name.lower(): value for name, value in llm.log()[-1]["headers"].items()}
    assert headers["authorization"] == f"Bearer {key}"
    assert "another-service" not in json.dumps(llm.log())
    made(llm, tmp_path / "without", documents=1)
    assert "another-service" not in json.dumps(llm.log())
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or key.encode() not in path.read_bytes()


def test_a_key_over_an_open_network_is_warned_of(llm: ScriptedLlm, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k")
    lines = Lines()
    source = llm_source(
        settings(llm, url="http://192.0.2.1:9/v1", key_file=tmp_path / "key", retries=0, timeout_seconds=0.05),
        RunFolder(tmp_path),
        seed=0,
    )
    with pytest.raises(AdaptError):
        list(source.drafts(DOCUMENTS, lines))
    assert lines.said == ["warning: the key of the LLM goes to http://192.0.2.1:9/v1 without encryption"]


def test_the_budget_holds_and_ends_at_the_same_document_however_many_are_asked_about(
    llm: ScriptedLlm, tmp_path: Path
) -> None:
    budget = 13_000
    ends = []
    for concurrency in (1, 3, 16):
        drafts, figures = made(
            llm, tmp_path / str(concurrency), "jitter", budget_tokens=budget, concurrency=concurrency
        )
        assert 0 < figures["tokens"] <= budget
        assert figures["documents"] + figures["documents beyond the budget"] == len(DOCUMENTS)
        ends.append((texts(drafts), figures))
    assert ends[0] == ends[1] == ends[2]
    asked = [id for id, _ in ends[0][0]]
    assert 1 <= len(asked) < len(DOCUMENTS)
    assert asked == [document.id for document in DOCUMENTS if document.id in asked]
    assert asked != [document.id for document in DOCUMENTS][: len(asked)]


def test_the_end_of_the_budget_is_said(llm: ScriptedLlm, tmp_path: Path) -> None:
    lines = Lines()
    source = llm_source(settings(llm, budget_tokens=13_000), RunFolder(tmp_path), seed=0)
    drafts = list(source.drafts(DOCUMENTS, lines))
    assert lines.said == [f"the budget of 13,000 tokens ends after {len(drafts)} of 12 documents"]


def test_a_budget_below_one_document_is_refused_before_any_request(llm: ScriptedLlm, tmp_path: Path) -> None:
    with pytest.raises(BudgetSpent, match="the budget of 100 tokens is too small: one document may take"):
        made(llm, tmp_path, budget_tokens=100)
    assert llm.log() == []


CHILD = """
import json, sys
from pathlib import Path
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.progress import Silent
from shortlist_adapt.records import CorpusDocument
from shortlist_adapt.synthesis.llm.settings import LlmSettings
from shortlist_adapt.synthesis.llm.source import llm_source
documents = [CorpusDocument(**row) for row in json.loads(sys.argv[3])]
source = llm_source(LlmSettings(url=sys.argv[1], model="slow", concurrency=2), RunFolder(Path(sys.argv[2])), seed=0)
list(source.drafts(documents, Silent()))
"""


def test_killed_and_run_again_it_pays_for_no_answer_twice(llm: ScriptedLlm, tmp_path: Path) -> None:
    undisturbed, figures = made(llm, tmp_path / "undisturbed", "slow", temperature=0.7)
    rows = json.dumps([{"id": one.id, "title": one.title, "text": one.text} for one in DOCUMENTS])
    answers = RunFolder(tmp_path / "killed").cache / "llm" / "answers.jsonl"
    with subprocess.Popen([sys.executable, "-c", CHILD, llm.url, str(tmp_path / "killed"), rows]) as child:
        until = time.monotonic() + 60
        while (not answers.exists() or answers.read_bytes().count(b"\n") < 5) and time.monotonic() < until:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
    kept = answers.read_bytes().count(b"\n")
    assert 5 <= kept < figures["calls"]
    llm.reset()
    again, again_figures = made(llm, tmp_path / "killed", "slow", temperature=0.7)
    assert (again, again_figures) == (undisturbed, figures)
    assert len(llm.log()) == figures["calls"] - kept


def test_a_server_that_goes_down_and_comes_back_costs_no_answer(llm: ScriptedLlm, tmp_path: Path) -> None:
    with pytest.raises(EndpointFailed, match="run the step again to go on"):
        made(llm, tmp_path, "down-after-9", retries=0, concurrency=1)
    answers = RunFolder(tmp_path).cache / "llm" / "answers.jsonl"
    assert answers.read_bytes().count(b"\n") == 9
    drafts: list[Draft] = []
    for _ in range(2):
        llm.reset()
        with contextlib.suppress(EndpointFailed):
            drafts, _figures = made(llm, tmp_path, "down-after-9", retries=0, concurrency=1)
    assert len(drafts) == len(DOCUMENTS)
    assert answers.read_bytes().count(b"\n") == 24


def test_two_runs_at_a_time_in_one_folder_are_refused(llm: ScriptedLlm, tmp_path: Path) -> None:
    from shortlist_adapt.synthesis.llm.cache import AnswerCache

    cache = AnswerCache(RunFolder(tmp_path).cache / "llm" / "answers.jsonl")
    with pytest.raises(InvalidInput, match="another process asks the LLM for this run"):
        made(llm, tmp_path)
    cache.close()
