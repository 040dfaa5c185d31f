"""Qwen3-Reranker against sentence-transformers and against its own model card, on a tiny checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.inference.base import RerankCandidate, Reranker, RerankQuery, RerankScores
from shortlist_server.inference.loading import load_reranker
from shortlist_server.inference.qwen3_reranker import (
    DEFAULT_INSTRUCTION,
    PREFIX,
    SUFFIX,
    Qwen3Prompt,
    Qwen3Reranker,
    shared_head,
)

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

IM_START, IM_END = 151644, 151645
YES, NO = 9693, 2152
LAST_LINES = "\n\n"
QUERY = "What is the capital of China?"
DOCUMENTS = [
    "The capital of China is Beijing.",
    "",
    " leading space",
    "\n\nleading lines",
    "5 begins with a digit",
    "(begins with a mark)",
    "\u0301begins with a combining mark",
    "🎉 émigré שלום",
    "word " * 300,
]


@pytest.fixture(scope="module")
def reranker(tiny_qwen3: Path) -> Reranker:
    return load_reranker("tiny", tiny_qwen3, Config(device="cpu"))


def score(reranker: Reranker, documents: list[str], query: str = QUERY, instruction: str = "") -> RerankScores:
    candidates = [RerankCandidate(text=document) for document in documents]
    return reranker.score(RerankQuery(text=query, instruction=instruction), candidates, lambda _: True)


def card_prompt(query: str, document: str, instruction: str = DEFAULT_INSTRUCTION) -> str:
    return f"{PREFIX}<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}{SUFFIX}"


def card_scores(folder: Path, prompts: list[str]) -> Any:
    """The model card's way: the whole prompt, all logits, one text at a time."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    raw = []
    for prompt in prompts:
        with torch.inference_mode():
            logits = model(torch.tensor([tokenizer.encode(prompt, add_special_tokens=False).ids])).logits[0, -1]
        raw.append(float(logits[YES] - logits[NO]))
    return np.array(raw)


def test_scores_are_the_model_cards(reranker: Reranker, tiny_qwen3: Path) -> None:
    ours = score(reranker, DOCUMENTS)
    theirs = card_scores(tiny_qwen3, [card_prompt(QUERY, document) for document in DOCUMENTS])
    assert np.abs(ours.scores - theirs).max() <= 1e-4
    assert ours.probabilities is not None
    assert np.abs(ours.probabilities - 1 / (1 + np.exp(-theirs))).max() <= 1e-4
    assert np.ptp(theirs) > 0.1, "scores that are all alike would prove nothing"


def test_scores_are_those_of_sentence_transformers(reranker: Reranker, tiny_qwen3: Path, tmp_path: Path) -> None:
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    folder = tmp_path / "with-template"
    shutil.copytree(tiny_qwen3, folder)
    template = (
        f"{PREFIX}<Instruct>: {DEFAULT_INSTRUCTION}\n<Query>: {{{{ messages[0]['content'] }}}}"
        f"\n<Document>: {{{{ messages[1]['content'] }}}}{SUFFIX.removesuffix(LAST_LINES)}{{{{ '{LAST_LINES}' }}}}"
    )
    (folder / "chat_template.jinja").write_text(template)
    transformer = Transformer(str(folder), transformer_task="text-generation")
    reference = CrossEncoder(modules=[transformer, LogitScore(YES, NO)], device="cpu")
    rendered = transformer.preprocess([(QUERY, DOCUMENTS[2])])["input_ids"][0]
    assert transformer.tokenizer.decode(rendered) == card_prompt(QUERY, DOCUMENTS[2])
    pairs = [(QUERY, document) for document in DOCUMENTS]
    theirs = reference.predict(pairs, activation_fn=torch.nn.Identity())
    assert np.abs(score(reranker, DOCUMENTS).scores - theirs).max() <= 1e-4


def test_reusing_the_head_changes_no_score(reranker: Reranker, tiny_qwen3: Path) -> None:
    assert isinstance(reranker, Qwen3Reranker)
    assert np.abs(score(reranker, DOCUMENTS).scores - score(reranker.without_reuse(), DOCUMENTS).scores).max() <= 1e-4


def test_the_heads_keys_and_values_are_shared_and_not_copied(tiny_qwen3: Path) -> None:
    """A copy of the head for each candidate in every layer is what filled a card's memory."""
    import torch
    from transformers import AutoModelForCausalLM

    decoder = AutoModelForCausalLM.from_pretrained(tiny_qwen3).eval().model
    with torch.inference_mode():
        cache = decoder(input_ids=torch.arange(10)[None], use_cache=True).past_key_values
        places = [layer.keys.data_ptr() for layer in cache.layers]
        view = shared_head(cache)
        decoder(
            input_ids=torch.arange(12).reshape(4, 3),
            attention_mask=torch.ones(4, 13, dtype=torch.long),
            position_ids=torch.arange(10, 13).expand(4, -1),
            past_key_values=view,
            use_cache=True,
        )
    for seen in (cache, view):
        assert [layer.keys.data_ptr() for layer in seen.layers] == places
        assert {layer.keys.shape[0] for layer in seen.layers} == {1}
        assert {layer.keys.shape[2] for layer in seen.layers} == {10}


def test_a_lack_of_memory_halves_the_batch_and_changes_no_score(
    tiny_qwen3: Path, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    tight = load_reranker("tiny", tiny_qwen3, Config(device="cpu"))
    assert isinstance(tight, Qwen3Reranker)
    whole, batches = tight._run_tails, []

    def run(texts: Sequence[list[int]], *rest: Any) -> Any:
        batches.append(len(texts))
        if len(texts) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(texts, *rest)

    monkeypatch.setattr(tight, "_run_tails", run)
    assert np.abs(score(tight, DOCUMENTS).scores - score(reranker, DOCUMENTS).scores).max() <= 1e-4
    failed = next(place for place, size in enumerate(batches) if size > 3)
    assert max(batches[failed + 1 :]) <= batches[failed] // 2
    assert sum(size for size in batches if size <= 3) == len(DOCUMENTS)


def test_an_instruction_reaches_the_prompt(reranker: Reranker, tiny_qwen3: Path) -> None:
    ours = score(reranker, DOCUMENTS[:1], instruction="Find the poem").scores
    theirs = card_scores(tiny_qwen3, [card_prompt(QUERY, DOCUMENTS[0], "Find the poem")])
    assert np.abs(ours - theirs).max() <= 1e-4


def test_the_prompt_is_the_model_cards_token_for_token(qwen3_tokenizer_file: Path) -> None:
    prompt = Qwen3Prompt(qwen3_tokenizer_file, 8192)
    head = prompt.head("q", "")
    ((tail, cut),) = prompt.tails(["d"], len(head))
    assert (prompt.yes, prompt.no, cut) == (YES, NO, 0)
    assert head == [
        *[IM_START, 8948, 198, 60256, 3425, 279, 11789, 20027, 279, 8502, 3118, 389, 279, 11361, 323, 279, 758],
        *[1235, 3897, 13, 7036, 429, 279, 4226, 646, 1172, 387, 330, 9693, 1, 476, 330, 2152, 3263, IM_END, 198],
        *[IM_START, 872, 198, 27, 641, 1235, 26818, 16246, 264, 3482, 2711, 3239, 11, 17179, 9760, 46769, 429],
        *[4226, 279, 3239, 198, 27, 2859, 26818, 2804, 198, 75692, 26818],
    ]
    assert tail == [294, IM_END, 198, IM_START, 77091, 198, 151667, 271, 151668, 271]


def test_what_is_rendered_is_the_prompt_cut_as_it_was_for_the_model(
    reranker: Reranker, qwen3_tokenizer_file: Path
) -> None:
    candidates = [RerankCandidate(text=document) for document in DOCUMENTS]
    rendered = reranker.render(RerankQuery(text=QUERY, instruction="Find it"), candidates)
    assert [one.text for one in rendered] == [card_prompt(QUERY, document, "Find it") for document in DOCUMENTS]
    prompt = Qwen3Prompt(qwen3_tokenizer_file, 200)
    head = prompt.head(QUERY, "")
    ((tail, cut),) = prompt.tails(["word " * 300], len(head))
    text = prompt.text([*head, *tail])
    assert text.startswith(card_prompt(QUERY, "word word").removesuffix(SUFFIX))
    assert text.endswith(f"word{SUFFIX}")
    assert text.count(" word") == 301 - cut


def test_no_added_token_is_read_out_of_a_users_text(qwen3_tokenizer_file: Path) -> None:
    from tokenizers import Tokenizer

    prompt = Qwen3Prompt(qwen3_tokenizer_file, 8192)
    head = prompt.head("q", "i")
    ((tail, _),) = prompt.tails(["d"], len(head))
    added = {
        number: token.content
        for number, token in Tokenizer.from_file(str(qwen3_tokenizer_file)).get_added_tokens_decoder().items()
    }
    assert {"<|im_end|>", "<think>", "</think>", "<tool_call>", "<|fim_pad|>"} <= set(added.values())
    of_the_prompt = [token for token in head if token in added], [token for token in tail if token in added]
    for name in added.values():
        text = f"{name} a{name}b{name}{name}\n\n{name}"
        head = prompt.head(text, text)
        ((tail, _),) = prompt.tails([text], len(head))
        found = [token for token in head if token in added], [token for token in tail if token in added]
        assert found == of_the_prompt, name
        assert prompt.text([*head, *tail]) == card_prompt(text, text, text)


@pytest.mark.parametrize("words", [3, 100, 5000])
def test_truncation_cuts_the_document_and_never_the_suffix(qwen3_tokenizer_file: Path, words: int) -> None:
    prompt = Qwen3Prompt(qwen3_tokenizer_file, 300)
    head = prompt.head("capital " * words, "")
    ((tail, cut),) = prompt.tails(["a " * 1000], len(head))
    assert len(head) + len(tail) == 300
    assert cut == 1001 - (len(tail) - 9)
    assert tail[-9:] == [IM_END, 198, IM_START, 77091, 198, 151667, 271, 151668, 271]
    assert len(tail) - 9 >= 100, "a long query leaves the document its half"
    assert head[-2:] == [75692, 26818]


def test_it_stops_when_told_and_gives_the_first_candidates(reranker: Reranker) -> None:
    # It asks whether there is time for all of them, then before each batch.
    answers = iter([False, True, False])
    candidates = [RerankCandidate(text=f"document {i}") for i in range(40)]
    part = reranker.score(RerankQuery(text=QUERY), candidates, lambda _: next(answers))
    whole = reranker.score(RerankQuery(text=QUERY), candidates, lambda _: True)
    assert 0 < len(part.scores) < 40
    assert np.abs(part.scores - whole.scores[: len(part.scores)]).max() <= 1e-5
