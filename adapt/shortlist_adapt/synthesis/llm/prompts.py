"""The files that say what the LLM is asked: two prompts, and the lists of people, types and levels.

Ours lie beside this module in ``prompts/``. A user's folder replaces them file by file. A prompt has a line
``[system]`` and a line ``[user]``, each before its part; placeholders are those of ``string.Template``. A list has one
choice in each line, "name: description"; lines that begin with "#" are comments.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from shortlist_adapt.errors import InvalidInput

FILES = ("configuration.txt", "query.txt", "characters.txt", "types.txt", "levels.txt")

PLACEHOLDERS: Mapping[str, frozenset[str]] = {
    "configuration.txt": frozenset({"document", "characters", "types", "levels", "words"}),
    "query.txt": frozenset({"document", "character", "type", "level", "language", "words"}),
}

PARTS = re.compile(r"^\[(system|user)\][ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An entry of a list: what the LLM chooses by its name."""

    name: str
    description: str

    def line(self) -> str:
        """As it stands in a prompt."""
        return f"{self.name}: {self.description}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt with placeholders.

    Attributes:
        hash: the first 16 hexadecimal digits of the file's SHA-256; the provenance of queries names it.
    """

    system: string.Template
    user: string.Template
    hash: str

    def fill(self, values: Mapping[str, str]) -> tuple[str, str]:
        """The texts of both parts. Values are inserted as they are: a "$" in a document stays."""
        return self.system.substitute(values), self.user.substitute(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFiles:
    """Everything that the files say."""

    configuration: Prompt
    query: Prompt
    characters: tuple[Choice, ...]
    types: tuple[Choice, ...]
    levels: tuple[Choice, ...]


def read_prompts(folder: Path | None = None, types: tuple[str, ...] = ()) -> PromptFiles:
    """Reads the files of ``folder``, and ours in place of those it does not have.

    Args:
        folder: None for ours alone.
        types: names of the types to keep; empty for all.

    Raises:
        InvalidInput: the folder or a file cannot be read, a part, placeholder or entry is missing or unknown, or there
            is no type of such a name.
    """
    if folder is not None and not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder with prompt files")
    kinds = _choices("types.txt", _text("types.txt", folder))
    unknown = sorted(set(types) - {kind.name for kind in kinds})
    if unknown:
        raise InvalidInput(f"type {unknown[0]!r} is not in types.txt; it has {', '.join(kind.name for kind in kinds)}")
    return PromptFiles(
        configuration=_prompt("configuration.txt", _text("configuration.txt", folder)),
        query=_prompt("query.txt", _text("query.txt", folder)),
        characters=_choices("characters.txt", _text("characters.txt", folder)),
        types=tuple(kind for kind in kinds if not types or kind.name in types),
        levels=_choices("levels.txt", _text("levels.txt", folder)),
    )


def files_of(folder: Path | None) -> list[Path]:
    """Those files of a user's folder that replace ours."""
    return [] if folder is None else [path for name in FILES if (path := folder / name).exists()]


def copy_prompts(folder: Path) -> tuple[Path, ...]:
    """Copies our files into ``folder``, for changing them. Returns the new files; files that exist already stay.

    Raises:
        InvalidInput: the folder cannot be written.
    """
    made = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            path = folder / name
            if not path.exists():
                path.write_text(_text(name, None), encoding="utf-8")
                made.append(path)
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written: {error.strerror}") from error
    return tuple(made)


def _text(name: str, folder: Path | None) -> str:
    if folder is not None and (path := folder / name).exists():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{path} cannot be read as UTF-8 text: {error}") from error
    return resources.files(__package__).joinpath("prompts", name).read_text(encoding="utf-8")


def _prompt(name: str, text: str) -> Prompt:
    pieces = PARTS.split(text)
    # The pieces: what stands before the first part, then each part's name and its text.
    parts = {part: string.Template(body.strip()) for part, body in zip(pieces[1::2], pieces[2::2], strict=True)}
    if pieces[1::2] != ["system", "user"]:
        raise InvalidInput(f"{name} must have a line [system] and, after it, a line [user]")
    used: set[str] = set()
    for part, template in parts.items():
        if not template.is_valid():
            raise InvalidInput(f"{name}, part [{part}]: a '$' without a placeholder; write '$$' for a dollar sign")
        used.update(template.get_identifiers())
    for problem, names in (("unknown", used - PLACEHOLDERS[name]), ("missing", {"document"} - used)):
        if names:
            raise InvalidInput(f"{name}: the placeholder ${min(names)} is {problem}")
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Prompt(system=parts["system"], user=parts["user"], hash=digest)


def _choices(name: str, text: str) -> tuple[Choice, ...]:
    choices: dict[str, Choice] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, colon, description = (part.strip() for part in line.partition(":"))
        if not (key and colon and description):
            raise InvalidInput(f"{name}, line {number}: not 'name: description'")
        if key.casefold() in choices:
            raise InvalidInput(f"{name}, line {number}: {key!r} is there already")
        choices[key.casefold()] = Choice(name=key, description=description)
    if not choices:
        raise InvalidInput(f"{name} has no entry")
    return tuple(choices.values())
