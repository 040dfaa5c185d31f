"""Estimates as text."""

from shortlist_adapt.costs import Cost


def test_costs_add_up_and_say_only_what_there_is() -> None:
    cost = Cost(seconds=600, searches=4000) + Cost(seconds=120, llm_calls=10, llm_tokens=5000)
    assert cost.line() == "about 12 minutes, 4,000 searches, up to 10 calls of the language model, 5,000 tokens"
    assert Cost(seconds=20, disk_bytes=3_000_000).line() == "about 20 seconds, 3 MB of disk"
    assert Cost().line() == "nothing to speak of"
