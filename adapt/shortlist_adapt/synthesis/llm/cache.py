"""Answers of the LLM, kept by request, so that none is paid for twice.

Answers are added to one file of JSON lines. A kill may leave a torn last line, which the next opening cuts off. One
process at a time may have the file open; a lock keeps a second one out.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.synthesis.llm.chat import Answer

FIELDS = frozenset(field.name for field in dataclasses.fields(Answer))


class AnswerCache:
    """The answers of earlier requests by ``Request.key``. One thread."""

    def __init__(self, path: Path) -> None:
        """Opens the file, or makes it.

        Raises:
            InvalidInput: the file cannot be written, another process has it open, or a line is not an answer.
        """
        self._path = path
        self._answers: dict[str, Answer] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise InvalidInput(f"{path} cannot be written: {error.strerror}") from error
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """The answer to a request; None if it was never answered."""
        return self._answers.get(key)

    def put(self, key: str, answer: Answer) -> None:
        """Keeps an answer; it survives a kill of the process. The first answer to a request stays."""
        if key in self._answers:
            return
        # In ASCII, because a model may write half a surrogate pair, which UTF-8 cannot hold.
        line = json.dumps({"key": key, **dataclasses.asdict(answer)}, separators=(",", ":"))
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        self._answers[key] = answer

    def close(self) -> None:
        """Closes the file and lets others open it."""
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InvalidInput(f"{self._path} is in use: another process asks the LLM for this run") from error

    def _read(self) -> None:
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            self._keep(number, line)
            end += len(line)
        if end < os.fstat(self._file.fileno()).st_size:
            self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)

    def _keep(self, number: int, line: bytes) -> None:
        try:
            values: dict[str, Any] = json.loads(line)
            key = values.pop("key")
            if values.keys() != FIELDS:
                raise ValueError("other fields than those of an answer")
            self._answers.setdefault(key, Answer(**values))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"{self._path.name}, line {number}: not an answer ({error}); delete the file") from error
