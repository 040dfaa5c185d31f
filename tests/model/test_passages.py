"""Passages by the tokens of three kinds of tokenizer: WordPiece, byte-level BPE and Unigram."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shortlist_server.domain import Chunking, OverflowPolicy
from shortlist_server.errors import DocumentTooLarge
from shortlist_server.inference import passages
from shortlist_server.inference.base import CutText
from shortlist_server.inference.tokenization import TextTokenizer

pytestmark = pytest.mark.model

TITLE = "A title"
LONGEST_TOKEN = 64
"""Code points; a longer token stands for what the tokenizer cannot read, and may be cut."""
SCRIPTS = {
    "latin": "The quick brown fox jumps over the lazy dog. Retrieval finds passages, and a reranker orders them. ",
    "chinese": "检索增强生成把搜索结果交给语言模型。今天天气很好,我们去公园散步。数据库保存文件,索引加快查询。",
    "thai": "ภาษาไทยเขียนติดกันโดยไม่เว้นวรรคระหว่างคำ การค้นหาข้อความต้องตัดคำก่อน วันนี้อากาศดีมาก",
    "emoji": "🎉👩‍👩‍👧‍👦🚀😀",
    "one word": "AbstractSingletonProxyFactoryBeanxyzzy0123456789",
    "marks": "\u0301\u200b \t\n\x00ﷺé ",
}


@pytest.fixture(scope="module", params=["wordpiece", "byte-level", "unigram"])
def tokenizer(
    request: pytest.FixtureRequest, minilm: Path, qwen3_tokenizer_file: Path, unigram_tokenizer_file: Path
) -> TextTokenizer:
    files = {
        "wordpiece": minilm / "tokenizer.json",
        "byte-level": qwen3_tokenizer_file,
        "unigram": unigram_tokenizer_file,
    }
    last = "<|endoftext|>" if request.param == "byte-level" else ""
    return TextTokenizer(files[request.param], max_tokens=512, last_token=last)


def cut(
    tokenizer: TextTokenizer,
    text: str,
    *,
    size: int = 128,
    overlap: int = 16,
    title: str = TITLE,
    overflow: OverflowPolicy = OverflowPolicy.CHUNK,
) -> CutText:
    return passages.cut(title, text, Chunking(max_tokens=size, overlap_tokens=overlap), overflow, tokenizer)


def shuffled(script: str, length: int) -> str:
    """A text of snippets of a script, or of all scripts, of about that length, always the same."""
    chance = random.Random(script)
    parts: list[str] = []
    while sum(map(len, parts)) < length:
        source = SCRIPTS[script if script in SCRIPTS else chance.choice(sorted(SCRIPTS))]
        start = chance.randrange(len(source))
        parts.append(source[start : start + chance.randrange(3, 40)])
    return "".join(parts)


def check(tokenizer: TextTokenizer, text: str, result: CutText, size: int, overlap: int) -> None:
    """Asserts that passages cover the text, fit, and share what they should."""
    found = result.passages
    assert (found[0].start, found[-1].end) == (0, len(text))
    assert all(one.tokens == tokenizer.count([one.content])[0] <= size for one in found)
    assert all(one.content.endswith(text[one.start : one.end]) for one in found)
    spans = tokenizer.spans(text)
    for left, right in itertools.pairwise(found):
        assert left.start < right.start <= left.end < right.end
        first, last, behind = np.searchsorted(spans.starts, [left.start, right.start, left.end])
        readable = (spans.ends - spans.starts)[max(last - 1, 0) : behind].max(initial=0) <= LONGEST_TOKEN
        assert not readable or behind - last >= min(overlap, (behind - first) // 2)


def is_readable(tokenizer: TextTokenizer, text: str) -> bool:
    """Whether no token stands for more than a tokenizer reads; WordPiece gives one for a word of more than 100."""
    spans = tokenizer.spans(text)
    return int((spans.ends - spans.starts).max()) <= LONGEST_TOKEN


def ideal(tokenizer: TextTokenizer, text: str, size: int, overlap: int) -> int:
    """How many passages there would be if each were full."""
    room = size - tokenizer.count([f"{TITLE}\n"])[0]
    return -(-(len(tokenizer.spans(text)) - overlap) // (room - overlap))


@pytest.mark.parametrize("script", ["latin", "chinese", "thai", "mixed", "one word", "emoji"])
@pytest.mark.parametrize(("size", "overlap"), [(128, 16), (64, 0), (256, 64)])
def test_passages_are_as_many_as_are_due(tokenizer: TextTokenizer, script: str, size: int, overlap: int) -> None:
    text = shuffled(script, 6000)
    result = cut(tokenizer, text, size=size, overlap=overlap)
    due = ideal(tokenizer, text, size, overlap)
    check(tokenizer, text, result, size, overlap)
    assert due <= len(result.passages)
    assert len(result.passages) <= 1.15 * due + 2 or not is_readable(tokenizer, text)


def test_chinese_passages_without_a_title_are_full(unigram_tokenizer_file: Path) -> None:
    tokenizer = TextTokenizer(unigram_tokenizer_file, max_tokens=512)
    text = shuffled("chinese", 8000)
    found = cut(tokenizer, text, title="").passages
    due = (len(tokenizer.spans(text)) - 16) / (128 - 2 - 16)
    assert due <= len(found) <= 1.03 * due + 1
    assert min(one.tokens for one in found[:-1]) >= 120


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from(sorted(SCRIPTS.values())), st.text(max_size=30), st.integers(1, 300).map("x".__mul__)
        ),
        min_size=1,
        max_size=25,
    ),
    size=st.integers(40, 130),
    overlap=st.integers(0, 16),
)
def test_passages_of_any_text_cover_it_and_fit(
    tokenizer: TextTokenizer, parts: list[str], size: int, overlap: int
) -> None:
    text = "".join(parts)
    if text:
        check(tokenizer, text, cut(tokenizer, text, size=size, overlap=overlap), size, overlap)


@pytest.mark.parametrize("text", ["x" * 300_000, "漢" * 30_000, "🎉" * 30_000, "0123456789abcdef" * 3_000])
def test_a_long_text_without_a_space_is_many_passages(tokenizer: TextTokenizer, text: str) -> None:
    found = cut(tokenizer, text).passages
    assert (found[0].start, found[-1].end) == (0, len(text))
    assert all(left.start < right.start <= left.end for left, right in itertools.pairwise(found))
    assert max(one.end - one.start for one in found) <= 128 * LONGEST_TOKEN
    assert max(one.tokens for one in found) <= 128


@pytest.mark.parametrize("script", ["latin", "chinese", "mixed"])
def test_truncation_counts_the_tokens_behind_the_cut(tokenizer: TextTokenizer, script: str) -> None:
    text = shuffled(script, 3000)
    result = cut(tokenizer, text, overflow=OverflowPolicy.TRUNCATE)
    (passage,) = result.passages
    assert (passage.start, passage.tokens <= 128) == (0, True)
    assert result.truncated_tokens >= 1
    behind = len(tokenizer.spans(text[passage.end :]))
    assert abs(result.truncated_tokens - behind) <= 2 or not is_readable(tokenizer, text)
    with pytest.raises(DocumentTooLarge):
        cut(tokenizer, text, overflow=OverflowPolicy.ERROR)


@pytest.mark.parametrize("script", ["latin", "chinese", "thai", "one word", "emoji"])
def test_a_long_title_leaves_the_text_half(tokenizer: TextTokenizer, script: str) -> None:
    title = shuffled(script, 2000)
    text = shuffled("latin", 500)
    result = cut(tokenizer, text, title=title)
    head = result.passages[0].content.partition("\n")[0]
    assert title.startswith(head)
    assert len(tokenizer.spans(head)) <= 64
    assert result.truncated_tokens >= 1 or not is_readable(tokenizer, title)
    check(tokenizer, text, result, 128, 16)
    (alone,) = cut(tokenizer, "", title=title).passages
    assert alone.tokens <= 128
