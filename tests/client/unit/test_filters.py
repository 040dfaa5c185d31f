"""Filters build the tree they read like, and refuse what Python cannot tell apart."""

import math

import pytest

from shortlist import Field, Filter, InvalidFilter
from shortlist.v1 import filter_pb2


def test_comparisons_become_their_conditions() -> None:
    assert (Field("lang") == "en").to_proto().equals.value.string_value == "en"
    assert (Field("year") >= 2020).to_proto().range.gte.number_value == 2020
    assert (Field("year") > 2020).to_proto().range.gt.number_value == 2020
    assert (Field("year") <= 1.5).to_proto().range.lte.number_value == 1.5
    assert (Field("name") < "m").to_proto().range.lt.string_value == "m"
    assert Field("tags").contains("x").to_proto().contains.value.string_value == "x"
    assert Field("tags").exists().to_proto().exists.field == "tags"
    assert [s.number_value for s in Field("n").is_in([1, 2]).to_proto().one_of.values] == [1, 2]
    between = Field("n").between(1, 2).to_proto().range
    assert (between.gte.number_value, between.lte.number_value) == (1, 2)


def test_not_equal_is_the_negation_of_equal() -> None:
    assert (Field("a") != "b").to_proto().negation.equals.value.string_value == "b"


def test_true_is_a_bool_and_not_the_number_one() -> None:
    assert (Field("a") == True).to_proto().equals.value.WhichOneof("value") == "bool_value"  # noqa: E712
    assert (Field("a") == 1).to_proto().equals.value.WhichOneof("value") == "number_value"


def test_a_chain_of_one_operator_stays_flat() -> None:
    a, b, c, d = (Field("f") == value for value in "abcd")
    assert len((a & b & c & d).to_proto().all_of.filters) == 4
    assert len(((a | b) | (c | d)).to_proto().any_of.filters) == 4
    mixed = (a & (b | c)).to_proto()
    assert [part.WhichOneof("condition") for part in mixed.all_of.filters] == ["equals", "any_of"]


def test_a_dot_nests_and_a_key_in_brackets_is_literal() -> None:
    assert (Field("author.name") == "x").to_proto().equals.field == "author.name"
    assert (Field("author")["na.me\\x"] == "x").to_proto().equals.field == "author.na\\.me\\\\x"


def test_filters_have_no_truth_value() -> None:
    with pytest.raises(TypeError, match="use &"):
        assert (Field("a") == 1) and (Field("b") == 2)
    with pytest.raises(TypeError, match="between"):
        assert 1 < Field("a") < 5


@pytest.mark.parametrize("value", [None, [1], math.nan, math.inf, 2**60, "ol\udce9"])
def test_what_cannot_be_compared_with_is_refused_with_the_field(value: object) -> None:
    with pytest.raises(InvalidFilter) as caught:
        Field("author.age") == value  # noqa: B015
    assert caught.value.field == "author.age"


def test_bools_have_no_order() -> None:
    with pytest.raises(InvalidFilter, match="order"):
        Field("a") >= True  # noqa: B015


def test_a_string_is_not_a_list_of_values() -> None:
    with pytest.raises(InvalidFilter, match="list"):
        Field("a").is_in("abc")


def test_filters_read_back_as_text_and_compare_by_value() -> None:
    filter = (Field("year") >= 2020) & ~Field("lang").is_in(["de", "fr"])
    assert repr(filter) == "<Filter (year >= 2020.0 & ~lang in ['de', 'fr'])>"
    same = (Field("year") >= 2020) & ~Field("lang").is_in(["de", "fr"])
    assert filter == same
    assert hash(filter) == hash(same)
    assert filter != (Field("year") >= 2020)


def test_the_proto_given_out_is_a_copy() -> None:
    filter = Field("a") == 1
    filter.to_proto().equals.field = "b"
    assert filter == Filter(
        filter_pb2.Filter(equals=filter_pb2.Equals(field="a", value=filter_pb2.Scalar(number_value=1)))
    )
