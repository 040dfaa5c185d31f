"""What a model writes becomes a value, or is malformed."""

from __future__ import annotations

import json

import pytest

from shortlist_adapt.synthesis.llm.answers import (
    Malformed,
    configuration_schema,
    query_schema,
    read_configuration,
    read_query,
)
from shortlist_adapt.synthesis.llm.drawing import Draw
from shortlist_adapt.synthesis.llm.prompts import Choice

BAKER = Choice(name="Baker", description="bakes")
COOK = Choice(name="Cook", description="cooks")
FACT = Choice(name="fact", description="one fact")
LEVELS = (Choice(name="newcomer", description="new"), Choice(name="expert", description="old"))
DRAW = Draw(characters=(BAKER, COOK), types=(FACT,), language="document", words=(3, 5))

RIGHT = {"character": "Cook", "type": "fact", "difficulty": "expert", "gives_orders": False}


def test_a_right_answer_gives_the_choices() -> None:
    read = read_configuration(json.dumps(RIGHT), DRAW, LEVELS)
    assert (read.character, read.type, read.level, read.gives_orders) == (COOK, FACT, LEVELS[1], False)


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{json.dumps(RIGHT)}\n```",
        f"Sure! {json.dumps(RIGHT)} I hope this helps.",
        f"<think>maybe {{'character': 'Baker'}} or so</think>{json.dumps(RIGHT)}",
        "{} {'broken'} " + json.dumps(RIGHT),
        json.dumps(RIGHT | {"character": "cook: cooks"}),
        json.dumps(RIGHT | {"character": " COOK "}),
        json.dumps(RIGHT | {"reason": "because"}),
        json.dumps({name: value for name, value in RIGHT.items() if name != "gives_orders"}),
    ],
)
def test_what_models_put_around_the_object_is_ignored(text: str) -> None:
    assert read_configuration(text, DRAW, LEVELS).character == COOK


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON object with character, type, difficulty in ''"),
        ("Cook", "no JSON object"),
        ('["Cook"]', "no JSON object"),
        ('{"character": "Cook"', "no JSON object"),
        ("<think>" + json.dumps(RIGHT), "no JSON object"),
        (json.dumps(RIGHT | {"character": "Judge"}), "character is 'Judge', which was not offered"),
        (json.dumps(RIGHT | {"type": 1}), "type is 1, which was not offered"),
        (json.dumps(RIGHT | {"difficulty": None}), "difficulty is None, which was not offered"),
        (json.dumps(RIGHT | {"gives_orders": "no"}), "gives_orders is 'no', not true or false"),
        ("[" * 100_000, "no JSON object"),
        ('{"a":' * 100_000, "no JSON object"),
    ],
)
def test_another_form_is_malformed(text: str, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        read_configuration(text, DRAW, LEVELS)


def test_what_is_shown_of_a_long_answer_is_short() -> None:
    with pytest.raises(Malformed) as caught:
        read_query("x" * 10_000)
    assert len(str(caught.value)) < 300


def test_a_query_has_single_blanks_and_can_be_written_to_a_file() -> None:
    assert read_query('{"query": " how\\n does \\t bread rise "}') == "how does bread rise"
    assert read_query('{"query": "bread \\ud83d rises"}').encode() == b"bread  rises"


@pytest.mark.parametrize("text", ['{"query": ["bread"]}', '{"query": null}', '{"question": "bread"}'])
def test_a_query_is_a_text(text: str) -> None:
    with pytest.raises(Malformed):
        read_query(text)


def test_the_schemas_allow_what_was_offered_and_nothing_else() -> None:
    schema = configuration_schema(DRAW, LEVELS)
    assert schema["properties"]["character"] == {"type": "string", "enum": ["Baker", "Cook"]}
    assert schema["properties"]["difficulty"]["enum"] == ["newcomer", "expert"]
    for made in (schema, query_schema()):
        assert made["additionalProperties"] is False
        assert made["required"] == list(made["properties"])
