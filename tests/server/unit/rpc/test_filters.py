"""Filters of the proto, checked and translated."""

from typing import Any

import pytest

from shortlist.v1 import filter_pb2 as pb
from shortlist_server import domain
from shortlist_server.config import Config
from shortlist_server.errors import InvalidFilter
from shortlist_server.rpc.convert.filters import filter_in, path_in

CONFIG = Config()


def equals(field: str = "a", **value: Any) -> pb.Filter:
    return pb.Filter(equals=pb.Equals(field=field, value=pb.Scalar(**value)))


def test_a_tree_is_translated_node_by_node() -> None:
    message = pb.Filter(
        all_of=pb.AllOf(
            filters=[
                equals("a.b", string_value="x"),
                pb.Filter(negation=equals(number_value=1)),
                pb.Filter(
                    any_of=pb.AnyOf(
                        filters=[
                            pb.Filter(
                                range=pb.Range(field="y", gte=pb.Scalar(number_value=2), lt=pb.Scalar(number_value=3))
                            ),
                            pb.Filter(exists=pb.Exists(field="z")),
                            pb.Filter(contains=pb.Contains(field="tags", value=pb.Scalar(bool_value=True))),
                            pb.Filter(one_of=pb.OneOf(field="w", values=[pb.Scalar(string_value="q")])),
                        ]
                    )
                ),
            ]
        )
    )
    assert filter_in(message, CONFIG) == domain.AllOf(
        (
            domain.Equals(("a", "b"), "x"),
            domain.Negation(domain.Equals(("a",), 1.0)),
            domain.AnyOf(
                (
                    domain.Range(("y",), lower=2.0, lower_inclusive=True, upper=3.0, upper_inclusive=False),
                    domain.Exists(("z",)),
                    domain.Contains(("tags",), True),
                    domain.OneOf(("w",), ("q",)),
                )
            ),
        )
    )


@pytest.mark.parametrize(
    ("text", "path"),
    [("a", ("a",)), ("a.b", ("a", "b")), (r"a\.b", ("a.b",)), (r"a\\.b", ("a\\", "b")), ("ü ñ", ("ü ñ",))],
)
def test_a_path_is_split_at_dots_that_are_not_escaped(text: str, path: tuple[str, ...]) -> None:
    assert path_in(text, "f") == path


def nested(levels: int) -> pb.Filter:
    message = equals(string_value="x")
    for _ in range(levels - 1):
        message = pb.Filter(negation=message)
    return message


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.Filter(), "filter"),
        (pb.Filter(all_of=pb.AllOf()), "filter.all_of.filters"),
        (pb.Filter(any_of=pb.AnyOf(filters=[pb.Filter()])), "filter.any_of.filters[0]"),
        (pb.Filter(equals=pb.Equals(field="a")), "filter.equals.value"),
        (equals("", string_value="x"), "filter.equals.field"),
        (equals("a..b", string_value="x"), "filter.equals.field"),
        (equals("a\\", string_value="x"), "filter.equals.field"),
        (equals("a\nb", string_value="x"), "filter.equals.field"),
        (equals("a" * 513, string_value="x"), "filter.equals.field"),
        (equals(number_value=float("nan")), "filter.equals.value"),
        (pb.Filter(one_of=pb.OneOf(field="a")), "filter.one_of.values"),
        (pb.Filter(range=pb.Range(field="a")), "filter.range"),
        (pb.Filter(range=pb.Range(field="a", gt=pb.Scalar(bool_value=True))), "filter.range.gt"),
        (
            pb.Filter(range=pb.Range(field="a", gt=pb.Scalar(number_value=1), lt=pb.Scalar(string_value="b"))),
            "filter.range",
        ),
        (nested(17), "filter" + ".negation" * 16),
    ],
)
def test_a_malformed_filter_is_refused_with_the_path_of_what_is_wrong(message: pb.Filter, field: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        filter_in(message, CONFIG)
    assert caught.value.field == field


def test_the_deepest_and_the_largest_filters_allowed_are_accepted() -> None:
    filter_in(nested(16), CONFIG)
    leaves = [equals(string_value="x")] * 255
    filter_in(pb.Filter(all_of=pb.AllOf(filters=leaves)), CONFIG)
    with pytest.raises(InvalidFilter):
        filter_in(pb.Filter(all_of=pb.AllOf(filters=[*leaves, leaves[0]])), CONFIG)
