"""A world in which one model is right and another one is not, made of tables of word vectors: no training needed.

Questions and documents share no word, so only the vectors can bring them together.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

from shortlist import Document
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.records import CorpusDocument, Split, TrainingQuery, write_lines

TOPICS = 40
SPLITS = (Split.TRAIN, Split.DEVELOPMENT, Split.HELD_OUT)
WIDTH = 32

_WORDS = [f"{side}{topic}{letter}" for topic in range(TOPICS) for letter in "abc" for side in ("ask", "tell")]


def documents() -> list[Document]:
    """A document of three words for each topic."""
    return [
        Document(id=f"d{topic}", title=f"about{topic}", text=" ".join(f"tell{topic}{letter}" for letter in "abc"))
        for topic in range(TOPICS)
    ]


QUERIES = 40
"""Queries of each split."""


def write_run(root: Path, *, topics: range = range(TOPICS)) -> RunFolder:
    """A run folder with the documents, and queries about the topics in each split; it has no model yet."""
    folder = RunFolder(root)
    folder.prepare()
    write_lines(folder.corpus, (CorpusDocument(id=one.id, title=one.title, text=one.text) for one in documents()))
    dice = random.Random(3)
    queries = []
    for split in SPLITS:
        for number in range(QUERIES):
            topic = topics[number % len(topics)]
            words = [f"ask{topic}{letter}" for letter in dice.sample("abc", 3)]
            text = " ".join([*words, f"{split}{number // len(topics)}"])
            id = f"{split}-{number}-{topic}"
            queries.append(TrainingQuery(id=id, text=text, source="judged", split=split, positives={f"d{topic}": 1}))
    write_lines(folder.queries, queries)
    return folder


def write_judged(root: Path, topics: range) -> Path:
    """Questions about these topics as a folder in BEIR's format, split "test"."""
    (root / "qrels").mkdir(parents=True)
    queries = [{"_id": f"t{topic}", "text": f"ask{topic}a ask{topic}c"} for topic in topics]
    (root / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    (root / "qrels" / "test.tsv").write_text("".join(f"t{topic}\td{topic}\t1\n" for topic in topics))
    return root


def write_embedder(folder: Path, *, knows: float, first: int = 0, seed: int = 1) -> Path:
    """A model in which a share of the topics, 0 to 1, have the same vectors in questions and documents.

    ``first`` is the first such topic; ``seed`` chooses all other vectors.
    """
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    words = ["[UNK]", *_WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.random.default_rng(seed).normal(size=(len(words), WIDTH)).astype(np.float32)
    # Whatever is unknown, such as a title, weighs nothing.
    table[0] = 0
    for topic in range(first, first + round(knows * TOPICS)):
        for letter in "abc":
            table[words.index(f"ask{topic}{letter}")] = table[words.index(f"tell{topic}{letter}")]
    save_file({"embedding.weight": table}, folder / "model.safetensors")
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"}
    (folder / "modules.json").write_text(json.dumps([module]))
    return folder
