"""The files that say what the LLM is asked: ours, and those of a user."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from shortlist_adapt.commands.prompts import prompts_command
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.synthesis.llm.prompts import FILES, copy_prompts, files_of, read_prompts

VALUES = {"document": "D", "character": "C", "type": "T", "level": "L", "language": "N", "words": "3 to 5"}


def test_there_are_a_hundred_people_and_every_type_and_level_is_described() -> None:
    files = read_prompts()
    assert len(files.characters) >= 100
    assert {kind.name for kind in files.types} >= {"keyword", "fact", "explanation", "claim"}
    assert len(files.levels) == 3
    for choice in (*files.characters, *files.types, *files.levels):
        assert choice.line() == f"{choice.name}: {choice.description}"
        assert len(choice.description) > 20


def test_a_prompt_has_all_that_was_drawn_and_chosen() -> None:
    system, user = read_prompts().query.fill(VALUES)
    assert "JSON" in system
    assert all(f"{value}" in user for value in VALUES.values())
    assert "$" not in system + user


def test_comments_before_the_first_part_are_not_sent() -> None:
    system, user = read_prompts().query.fill(VALUES)
    assert "Placeholders" not in system + user


def test_a_dollar_sign_in_a_document_stays() -> None:
    _, user = read_prompts().query.fill({**VALUES, "document": "costs $5 or $character, $$"})
    assert "costs $5 or $character, $$" in user


def test_a_users_file_replaces_ours_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "characters.txt").write_text("# mine\n\nBeekeeper: looks after forty hives\n", encoding="utf-8")
    files = read_prompts(tmp_path)
    assert [choice.line() for choice in files.characters] == ["Beekeeper: looks after forty hives"]
    assert files.query == read_prompts().query or files.query.hash == read_prompts().query.hash
    assert files_of(tmp_path) == [tmp_path / "characters.txt"]


def test_the_hash_changes_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "query.txt").write_text("[system]\nShort.\n[user]\n$document in $words words\n", encoding="utf-8")
    files = read_prompts(tmp_path)
    assert files.query.hash != read_prompts().query.hash
    assert files.query.fill(VALUES) == ("Short.", "D in 3 to 5 words")


def test_types_can_be_limited() -> None:
    assert [kind.name for kind in read_prompts(types=("claim",)).types] == ["claim"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("query.txt", "[user]\n$document\n", r"must have a line \[system\]"),
        ("query.txt", "[user]\n$document\n[system]\nx\n", r"must have a line \[system\]"),
        ("query.txt", "[system]\nx\n[user]\nno place for it\n", r"\$document is missing"),
        ("query.txt", "[system]\n$persona\n[user]\n$document\n", r"\$persona is unknown"),
        ("configuration.txt", "[system]\nx\n[user]\n$document for $5\n", "a '\\$' without a placeholder"),
        ("characters.txt", "Baker bakes bread\n", "line 1: not 'name: description'"),
        ("characters.txt", "Baker: bakes\n\nbaker: bakes\n", "line 3: 'baker' is there already"),
        ("types.txt", "# none\n", "has no entry"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput, match=message) as caught:
        read_prompts(tmp_path)
    assert name in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "levels.txt").write_bytes(b"expert: \xff\xfe")
    with pytest.raises(InvalidInput, match=r"levels\.txt cannot be read as UTF-8 text"):
        read_prompts(tmp_path)


def test_an_unknown_type_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"type 'poem' is not in types\.txt; it has keyword, fact"):
        read_prompts(types=("poem",))
    with pytest.raises(InvalidInput, match="is not a folder with prompt files"):
        read_prompts(tmp_path / "missing")


def test_the_command_lists_what_it_copies(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    ran = CliRunner().invoke(prompts_command, [str(folder)])
    assert ran.exit_code == 0
    assert ran.stdout.split() == [str(folder / name) for name in FILES]
    assert "has all the files already" in CliRunner().invoke(prompts_command, [str(folder)]).stderr


def test_copies_are_read_as_ours_and_a_changed_copy_stays(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert [path.name for path in copy_prompts(folder)] == list(FILES)
    assert read_prompts(folder).query.hash == read_prompts().query.hash
    (folder / "levels.txt").write_text("all: knows everything there is\n", encoding="utf-8")
    assert copy_prompts(folder) == ()
    assert len(read_prompts(folder).levels) == 1
