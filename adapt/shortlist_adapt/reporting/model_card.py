"""The model card of a published model: its base, the data it learned from, its settings, figures and licence.

A card is ``README.md`` in the model's folder, in the format of the Hugging Face hub, whose library reads and writes it.
It names counts and settings. It holds no text of a document or a query, no address and no path. Functions read the run
folder and write the card; any thread.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.records import Split, TrainingPair, TrainingQuery, read_lines
from shortlist_adapt.reporting.decision import Decision, GatedModel
from shortlist_server.ranking.significance import shown

TEMPLATE = Path(__file__).with_name("model_card.md.j2")
CARD = "README.md"

UNKNOWN_LICENCE = "unknown"
"""The licence of a base that does not state one; hub readers show it as it is."""

_PRIVATE = ("key", "target", "url", "path", "file", "folder", "dir", "tls", "collection")
"""Parts of the names of settings that say where something is instead of what was done."""

_TASKS = {"embedder": "sentence-similarity", "reranker": "text-ranking"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The model that a training began with: its name, and its licence as an identifier of the hub."""

    name: str
    licence: str


def read_base(folder: RunFolder, kind: str) -> Base:
    """The base of a model, from the plan and from the copy that training keeps of it."""
    copy = folder.checkpoints / kind / "base"
    card = _metadata(copy / CARD)
    licence = card.get("license")
    served = _json(folder.state("corpus")).get("figures", {}).get("embedder", "")
    name = str(_plan(folder).get(f"{kind}_base") or card.get("base_model") or served)
    return Base(
        # A folder of the user's is a path: its last part is the name.
        name=(Path(name).name if Path(name).is_absolute() else name) or "an unnamed model",
        licence=licence if isinstance(licence, str) and licence else UNKNOWN_LICENCE,
    )


def write_card(folder: RunFolder, model: GatedModel, decision: Decision | None) -> Path:
    """Writes the card of a model into its folder, and returns the card's path.

    Args:
        folder: the run.
        model: the model, with the name and version under which it is published.
        decision: the gate's figures; None before the gate.

    Raises:
        InvalidInput: the run has no such model, or a file of it is malformed.
    """
    from huggingface_hub import ModelCard, ModelCardData

    place = folder.model / model.kind
    if not place.is_dir():
        raise InvalidInput(f"{folder.model.name}/{model.kind} is missing; run train and merge first")
    base = read_base(folder, model.kind)
    data = ModelCardData(
        base_model=base.name if "/" in base.name else None,
        license=base.licence,
        library_name="sentence-transformers",
        pipeline_tag=_TASKS[model.kind],
        tags=["shortlist", "adapted"],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        kind=model.kind,
        name=model.name,
        version=model.version,
        base=base,
        sources=_sources(folder),
        documents=_lines(folder.corpus),
        pairs=_pairs(folder),
        sweep=_sweep(folder, model.kind),
        settings=json.dumps(public(_plan(folder)), indent=2, ensure_ascii=False),
        decision=decision,
        shown=shown,
    )
    path = place / CARD
    partial = path.with_name(path.name + ".partial")
    card.save(partial)
    partial.replace(path)
    return path


def public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without addresses, paths and keys, at every level."""
    shown = {name: _public(value) for name, value in settings.items() if not _is_private(name)}
    return {name: value for name, value in shown.items() if value not in ({}, [])}


def _is_private(name: str) -> bool:
    return any(part in name.lower() for part in _PRIVATE)


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        return public(value)
    if isinstance(value, list):
        return [_public(one) for one in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _sources(folder: RunFolder) -> list[tuple[str, list[int]]]:
    """By source, the number of queries in each split."""
    if not folder.queries.is_file():
        return []
    counts: dict[str, Counter[Split]] = {}
    for query in read_lines(folder.queries, TrainingQuery):
        counts.setdefault(query.source, Counter())[query.split] += 1
    return [(source, [of[split] for split in Split]) for source, of in sorted(counts.items())]


def _pairs(folder: RunFolder) -> tuple[int, float]:
    """The number of training pairs, and their mean number of hard negatives."""
    if not folder.pairs.is_file():
        return 0, 0.0
    negatives = [len(p.negatives) for p in read_lines(folder.pairs, TrainingPair) if p.split is Split.TRAIN]
    return len(negatives), sum(negatives) / len(negatives) if negatives else 0.0


def _sweep(folder: RunFolder, kind: str) -> Mapping[str, Any]:
    found = _json(folder.sweep).get(kind)
    return found if isinstance(found, Mapping) else {}


def _plan(folder: RunFolder) -> Mapping[str, Any]:
    return _json(folder.plan)


def _json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path.name} cannot be read: {error}") from error
    return values if isinstance(values, Mapping) else {}


def _lines(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _metadata(path: Path) -> Mapping[str, Any]:
    from huggingface_hub.repocard import metadata_load

    if not path.is_file():
        return {}
    try:
        return metadata_load(path) or {}
    except Exception:
        return {}
