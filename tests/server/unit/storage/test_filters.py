"""The filter language over stored metadata, against its definition in Python."""

from __future__ import annotations

from typing import Any

import pytest

from shortlist_server.domain import AllOf, AnyOf, Contains, Equals, Exists, Filter, Negation, OneOf, Range
from shortlist_server.errors import InvalidFilter
from shortlist_server.storage.rows.filters import compile_filter
from shortlist_server.storage.rows.metadata import parse_field
from shortlist_server.storage.store import EmbeddedStore
from shortlist_server.storage.vectors.selection import KeySelection

from .conftest import Maker, collection_config

DOCUMENTS: dict[str, dict[str, Any]] = {
    "number": {"f": 1},
    "float": {"f": 1.0, "g": 2.5},
    "text": {"f": "1"},
    "true": {"f": True},
    "false": {"f": False},
    "null": {"f": None},
    "missing": {},
    "list": {"f": [1, "1", True, None, [2]]},
    "object": {"f": {"g": 1, "1": 2}},
    "big": {"f": 10},
    "z": {"f": "z\x00"},
    "odd": {'a"b\\c\n': 5, "d.e": 6, "": 7, "quo'te": 8},
}

CASES: list[tuple[Filter, set[str]]] = [
    (Equals(("f",), 1.0), {"number", "float"}),
    (Equals(("f",), "1"), {"text"}),
    (Equals(("f",), True), {"true"}),
    (Equals(("f",), False), {"false"}),
    (Equals(("f",), "z\x00"), {"z"}),
    (Equals(("f",), "z"), set()),
    (Equals(("f", "g"), 1.0), {"object"}),
    (Equals(("f", "0"), 1.0), set()),
    (Equals(('a"b\\c\n',), 5.0), {"odd"}),
    (Equals(("d.e",), 6.0), {"odd"}),
    (Equals(("quo'te",), 8.0), {"odd"}),
    (Negation(Equals(("f",), 1.0)), set(DOCUMENTS) - {"number", "float"}),
    (Negation(Negation(Equals(("f",), 1.0))), {"number", "float"}),
    (OneOf(("f",), (1.0, "1", True)), {"number", "float", "text", "true"}),
    (Negation(OneOf(("f",), (1.0, "1"))), set(DOCUMENTS) - {"number", "float", "text"}),
    (Range(("f",), lower=1.0), {"number", "float", "big"}),
    (Range(("f",), lower=1.0, lower_inclusive=False), {"big"}),
    (Range(("f",), lower=0.0, upper=1.0, upper_inclusive=False), set()),
    (Range(("f",), lower="1", upper="y"), {"text"}),
    (Range(("f",), lower="z", lower_inclusive=False), {"z"}),
    (Negation(Range(("f",), lower=1.0)), set(DOCUMENTS) - {"number", "float", "big"}),
    (Exists(("f",)), set(DOCUMENTS) - {"null", "missing", "odd"}),
    (Negation(Exists(("f",))), {"null", "missing", "odd"}),
    (Contains(("f",), 1.0), {"list"}),
    (Contains(("f",), "1"), {"list"}),
    (Contains(("f",), True), {"list"}),
    (Contains(("f",), False), set()),
    (Contains(("f",), 2.0), set()),
    (Negation(Contains(("f",), 1.0)), set(DOCUMENTS) - {"list"}),
    (AllOf((Exists(("f",)), Negation(Equals(("f",), 1.0)), Range(("f",), lower=0.0))), {"big"}),
    (AnyOf((Equals(("f",), 10.0), Equals(("f",), "1"))), {"big", "text"}),
]


def in_order(value: object) -> str:
    """The id of a parameter; the same in every process, which the order of a set is not."""
    return repr(sorted(value) if isinstance(value, set) else value)


@pytest.mark.parametrize("declared", [(), ("f", "f.g", r"d\.e", "quo'te", 'a"b\\\\c\n')])
@pytest.mark.parametrize(
    ("filter", "expected"), CASES, ids=lambda value: repr(sorted(value) if isinstance(value, set) else value)
)
def test_a_filter_passes_exactly_the_documents_of_its_definition(
    store: EmbeddedStore, maker: Maker, declared: tuple[str, ...], filter: Filter, expected: set[str]
) -> None:
    collection = store.create("c", collection_config(fields=declared))
    collection.commit([maker.upsert(name, **metadata) for name, metadata in DOCUMENTS.items()]).result(30)
    names = {key: name for name, key in collection.keys(list(DOCUMENTS)).items()}
    selection = collection.select(filter)
    assert isinstance(selection, KeySelection)
    assert {names[key] for key in selection.keys.tolist()} == expected


def test_a_declared_field_is_looked_up_in_its_index(store: EmbeddedStore, maker: Maker) -> None:
    collection = store.create("c", collection_config(fields=("year",)))
    condition = compile_filter(Equals(("year",), 1.0), {("year",)})
    with collection.reading() as connection:
        plan = connection.execute(
            f"EXPLAIN QUERY PLAN SELECT key FROM documents WHERE {condition.sql}", condition.parameters
        ).fetchall()
    assert "field_0" in str(plan)


def test_nothing_of_a_filter_becomes_sql_text() -> None:
    hostile = "x') OR 1=1 --"
    condition = compile_filter(AllOf((Equals((hostile,), hostile), Contains((hostile,), hostile))))
    assert hostile not in condition.sql
    assert "OR" not in condition.sql


@pytest.mark.parametrize(
    "filter",
    [
        AllOf(()),
        AnyOf(()),
        OneOf(("f",), ()),
        Equals((), 1.0),
        Range(("f",)),
        Range(("f",), lower=1.0, upper="a"),
        Range(("f",), lower=True),
        Equals(("f",), float("nan")),
    ],
    ids=repr,
)
def test_a_malformed_filter_is_refused(filter: Filter) -> None:
    with pytest.raises(InvalidFilter):
        compile_filter(filter)


def test_a_filter_nested_too_deep_is_refused() -> None:
    filter: Filter = Exists(("f",))
    for _ in range(70):
        filter = Negation(filter)
    with pytest.raises(InvalidFilter):
        compile_filter(filter)


def test_a_wide_filter_is_no_deep_expression(store: EmbeddedStore, maker: Maker) -> None:
    collection = store.create("c", collection_config())
    collection.commit([maker.upsert("a", f=300)]).result(30)
    assert collection.count(AnyOf(tuple(Equals(("f",), float(i)) for i in range(2000)))) == 1


def test_a_field_name_is_split_at_its_dots() -> None:
    assert parse_field(r"a.b\.c\\.d") == ("a", "b.c\\", "d")
    for bad in ("", ".a", "a..b", "a.", "a\\", r"a\b"):
        with pytest.raises(InvalidFilter):
            parse_field(bad)
