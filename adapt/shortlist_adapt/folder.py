"""The run folder: every file name, once, and the record of which steps are done.

A step is done when its state file says so for the same inputs and settings. A step that is run again with the same
fingerprint does nothing; with another one, it begins anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortlist_adapt.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of a run. Nothing is created before ``prepare``."""

    root: Path

    @property
    def plan(self) -> Path:
        """All settings of the run, as JSON."""
        return self.root / "plan.json"

    @property
    def corpus(self) -> Path:
        """The documents of the collection, as ``CorpusDocument`` lines."""
        return self.root / "corpus.jsonl"

    @property
    def queries(self) -> Path:
        """What ``synthesise`` made, as ``TrainingQuery`` lines."""
        return self.root / "queries.jsonl"

    @property
    def pairs(self) -> Path:
        """What ``mine`` made, as ``TrainingPair`` lines."""
        return self.root / "pairs.jsonl"

    @property
    def shortlists(self) -> Path:
        """What the first stage finds for the development queries, as ``Shortlist`` lines; ``mine`` makes it."""
        return self.root / "shortlists.jsonl"

    @property
    def checkpoints(self) -> Path:
        """What ``train`` made: ``embedder/`` and ``reranker/``, with a folder for each checkpoint."""
        return self.root / "checkpoints"

    @property
    def sweep(self) -> Path:
        """What ``merge`` measured on the development split."""
        return self.root / "sweep.json"

    @property
    def gate(self) -> Path:
        """What ``gate`` measured on held-out queries, and its decision."""
        return self.root / "gate.json"

    @property
    def model(self) -> Path:
        """The models to publish: ``embedder/`` and ``reranker/``, each with its model card."""
        return self.root / "model"

    @property
    def report(self) -> Path:
        """The report for people: counts, the ablation, gains and losses query by query."""
        return self.root / "report.html"

    @property
    def cache(self) -> Path:
        """What is expensive to make again: answers of an LLM, embeddings of the corpus."""
        return self.root / "cache"

    def state(self, step: str) -> Path:
        """The state file of a step."""
        return self.root / "steps" / f"{step}.json"

    def prepare(self) -> None:
        """Creates the folder. Raises ``InvalidInput``."""
        try:
            (self.root / "steps").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"{self.root} cannot be created: {error.strerror}") from error

    def figures(self, step: str, fingerprint: str) -> Mapping[str, Any] | None:
        """What the step noted when it was done with this fingerprint; None if it was not."""
        try:
            state = json.loads(self.state(step).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return state["figures"] if isinstance(state, dict) and state.get("fingerprint") == fingerprint else None

    def note_done(self, step: str, fingerprint: str, figures: Mapping[str, Any]) -> None:
        """Records that a step is done. To be called last, after its files are in place."""
        write_json(self.state(step), {"fingerprint": fingerprint, "figures": dict(figures)})


def fingerprint(settings: Mapping[str, Any], files: Iterable[Path] = ()) -> str:
    """SHA-256 of settings and of files' contents, in hexadecimal. Raises ``InvalidInput`` for a missing file."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for path in files:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise InvalidInput(f"{path.name} is missing; the step before this one makes it") from error
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
