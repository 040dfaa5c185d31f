"""Which split a query belongs to: training, development or held-out.

Rules, so that nothing of the held-out split is seen before the gate:

- Queries of equal normal form are one query.
- Queries that share an answer are in one split, and so are all queries that were made from a document and those that it
  answers. Documents of equal title and text count as one.
- A split that the user chose for a judged query stays. Made queries then follow their documents to the most protected
  split: held-out before development before training.

A group of queries that share answers may grow with every link until it holds nearly all of them, as click logs do. So a
group stays below a share of all queries, and the links of the most shared documents are cut first; the result tells how
many. The choice is by hash, so a query that is added moves no other one, unless it links two groups. Pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shortlist_adapt.corpus import draw
from shortlist_adapt.records import Split

MAX_GROUP = 10
"""Queries that a group may always have."""

MAX_GROUP_SHARE = 0.05
"""Share of all linking queries that a group may have beyond that."""

_PROTECTED = (Split.TRAIN, Split.DEVELOPMENT, Split.HELD_OUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A query as the splits see it.

    Attributes:
        key: its normal form; unique.
        documents: the documents that answer it; one of several twins stands for all.
        made: whether it was made from its only document; it then follows that document.
        split: the split that the user chose for it; None where the run may choose.
    """

    key: str
    documents: tuple[str, ...]
    made: bool
    split: Split | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The split of each member, in their order, and the number of links that were cut."""

    splits: tuple[Split, ...]
    cut_links: int


def assign(members: Sequence[Member], *, development: float, held_out: float, seed: int) -> Assignment:
    """Divides queries.

    Args:
        members: the queries; their keys are unique.
        development: share for the development split.
        held_out: share for the held-out split; ignored where the user chose held-out queries.
        seed: of the choice.
    """
    if any(member.split is Split.HELD_OUT for member in members):
        held_out = 0.0

    def choose(purpose: str, key: str) -> Split:
        number = draw(seed, purpose, key)
        if number < held_out:
            return Split.HELD_OUT
        return Split.DEVELOPMENT if number < held_out + development else Split.TRAIN

    linking = [index for index, member in enumerate(members) if not _follows(member)]
    groups, cut = _grouped(members, [index for index in linking if members[index].split is None])
    splits: dict[int, Split] = {}
    for index in linking:
        chosen = members[index].split
        splits[index] = choose("query", groups[index]) if chosen is None else chosen
    of_document = _of_documents(members, splits, lambda document: choose("document", document))
    return Assignment(
        splits=tuple(
            splits[index] if index in splits else of_document(member.documents[0])
            for index, member in enumerate(members)
        ),
        cut_links=cut,
    )


def _follows(member: Member) -> bool:
    return member.made and member.split is None and len(member.documents) == 1


def _grouped(members: Sequence[Member], indices: Sequence[int]) -> tuple[dict[int, str], int]:
    """The name of each query's group, which is the smallest key in it, and the number of links that were cut."""
    limit = max(MAX_GROUP, int(MAX_GROUP_SHARE * len(indices)))
    parent = {index: index for index in indices}
    size = dict.fromkeys(indices, 1)

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    answers: dict[str, list[int]] = {}
    for index in indices:
        for document in members[index].documents:
            answers.setdefault(document, []).append(index)
    cut = 0
    for _, linked in sorted(answers.items(), key=lambda item: (len(item[1]), item[0])):
        for other in linked[1:]:
            first, second = root(linked[0]), root(other)
            if first == second:
                continue
            if size[first] + size[second] > limit:
                cut += 1
                continue
            parent[second] = first
            size[first] += size[second]
    names: dict[int, str] = {}
    for index in indices:
        at = root(index)
        names[at] = min(names.get(at, members[index].key), members[index].key)
    return {index: names[root(index)] for index in indices}, cut


def _of_documents(
    members: Sequence[Member], splits: Mapping[int, Split], choose: Callable[[str], Split]
) -> Callable[[str], Split]:
    strictest: dict[str, Split] = {}
    for index, split in splits.items():
        for document in members[index].documents:
            strictest[document] = max(split, strictest.get(document, split), key=_PROTECTED.index)
    return lambda document: strictest.get(document) or choose(document)
