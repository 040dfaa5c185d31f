"""Reads and writes ``backup.json``, and compares a backup's files with it.

``backup.json`` lists each collection with its identity, its counts, and the size and SHA-256 of each of its files. It
also has a checksum of its own. Format 1, of earlier releases, has only the counts. The file may come from anywhere, so
every value's type and range are checked before use. Any thread may call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shortlist_server.domain import NEVER, Cancellation
from shortlist_server.errors import DataCorrupted, InvalidArgument
from shortlist_server.storage.disk.data_folder import NAME
from shortlist_server.storage.layout import (
    BACKUP_FILE,
    COMMIT_FILE,
    DATA_FILES,
    DATABASE_FILE,
    MANIFEST_FILE,
)
from shortlist_server.storage.reports import BACKUP_FORMAT, BackedUp, Backup, FileEntry
from shortlist_server.storage.vectors.manifest import describe, sha256

WITHOUT_CHECKSUMS = (
    "an earlier release made this backup without checksums: its counts can be checked, but changes within its files"
    " cannot be found"
)

_LONGEST_NAME = 4096
_YEAR_10000 = 253_402_300_800
_FILE = re.compile(rf"{DATABASE_FILE}|{COMMIT_FILE}|segments/[0-9a-f]{{32}}/({'|'.join((*DATA_FILES, MANIFEST_FILE))})")
_HEXADECIMAL = re.compile(r"[0-9a-f]*")


def dump(backup: Backup) -> bytes:
    """The content of ``backup.json``."""
    values = {
        "format": BACKUP_FORMAT,
        "create_time_seconds": backup.create_time_seconds,
        "collections": [
            {
                "name": entry.name,
                "uid": entry.uid,
                "sequence": entry.sequence,
                "documents": entry.documents,
                "passages": entry.passages,
                "segments": entry.segments,
                "bytes": entry.bytes,
                "models": list(entry.models),
                "files": {path: {"bytes": file.bytes, "sha256": file.sha256} for path, file in entry.files.items()},
            }
            for entry in backup.collections
        ],
    }
    return json.dumps({**values, "checksum": _checksum(values)}, indent=1).encode()


def read_backup(folder: Path) -> Backup:
    """Reads the ``backup.json`` of a backup folder.

    Raises:
        InvalidArgument: the folder is not a complete backup, or a newer release made it.
        DataCorrupted: its ``backup.json`` is damaged.
    """
    try:
        values = json.loads((folder / BACKUP_FILE).read_bytes())
        format = _number(values, "format")
        if not format:
            raise ValueError("format 0 does not exist")
        if format > BACKUP_FORMAT:
            raise InvalidArgument(f"a newer release made {folder}; use that release to restore it", field="folder")
        if format > 1 and values.get("checksum") != _checksum({k: v for k, v in values.items() if k != "checksum"}):
            raise DataCorrupted(f"{folder / BACKUP_FILE} is damaged: its checksum differs; use another backup")
        time = values["create_time_seconds"]
        if type(time) not in (int, float) or not 0 <= time < _YEAR_10000:
            raise ValueError("create_time_seconds is not a time")
        entries = tuple(_entry(entry, format) for entry in values["collections"])
        if len({entry.name for entry in entries}) < len(entries):
            raise ValueError("a collection is named twice")
    except OSError as error:
        raise InvalidArgument(f"{folder} is not a complete backup ({error.strerror})", field="folder") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidArgument(f"{folder} is not a complete backup ({BACKUP_FILE}: {error})", field="folder") from error
    return Backup(folder=folder, create_time_seconds=float(time), collections=entries, format=format)


def file_problems(backup: Backup, entry: BackedUp) -> Iterator[tuple[str, str]]:
    """Yields the path of each file that differs from the list, and what is wrong. Reads every byte.

    Yields nothing in format 1, which has no list.
    """
    folder = backup.path(entry.name)
    for path, expected in entry.files.items():
        problem = file_problem(folder / path, expected)
        if problem is not None:
            yield path, problem
    if entry.files:
        present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        for path in sorted(present - entry.files.keys()):
            yield path, f"is not in {BACKUP_FILE}"


def file_problem(path: Path, expected: FileEntry, cancellation: Cancellation = NEVER) -> str | None:
    """What is wrong with a file, as the end of a sentence; None if the file is right."""
    try:
        found = describe(path, cancellation)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if found != expected:
        return f"is not the file that was backed up ({found.bytes} bytes, {expected.bytes} expected; checksums differ)"
    return None


def describe_files(folder: Path, cancellation: Cancellation = NEVER) -> dict[str, FileEntry]:
    """Size and checksum of each file in a collection's folder, by its path there."""
    return {
        path.relative_to(folder).as_posix(): describe(path, cancellation)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _entry(values: Any, format: int) -> BackedUp:
    name = values["name"]
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise ValueError("the name of a collection is not allowed")
    files = {}
    uid = ""
    if format > 1:
        uid = _hexadecimal(values, "uid", 32)
        for path, file in values["files"].items():
            if _FILE.fullmatch(path) is None:
                raise ValueError("the path of a file is not allowed")
            files[path] = FileEntry(bytes=_number(file, "bytes"), sha256=_hexadecimal(file, "sha256", 64))
        if DATABASE_FILE not in files:
            raise ValueError(f"collection '{name}' has no {DATABASE_FILE}")
    return BackedUp(
        name=name,
        sequence=_number(values, "sequence"),
        documents=_number(values, "documents"),
        passages=_number(values, "passages"),
        segments=_number(values, "segments"),
        bytes=_number(values, "bytes"),
        uid=uid,
        files=files,
        models=tuple(_name(one) for one in values.get("models", ())),
    )


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_NAME:
        raise ValueError("the name of a model is not a text, or too long")
    return value


def _number(values: Mapping[str, Any], name: str) -> int:
    value = values[name]
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{name} is not a number from 0 to 2^63 - 1")
    return value


def _hexadecimal(values: Mapping[str, Any], name: str, length: int) -> str:
    value = values[name]
    if not isinstance(value, str) or len(value) != length or _HEXADECIMAL.fullmatch(value) is None:
        raise ValueError(f"{name} does not have {length} hexadecimal digits")
    return value


def _checksum(values: Mapping[str, Any]) -> str:
    return sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())
