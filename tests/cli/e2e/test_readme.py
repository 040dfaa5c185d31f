"""The example in the README is run as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[3] / "README.md"


def test_the_five_line_example_finds_the_kettle(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert example.count("Client()") == 1
    exec(compile(example.replace("Client()", f"Client({target!r})"), str(README), "exec"), {})
    rank, id, score = capsys.readouterr().out.split()
    assert (rank, id) == ("1", "1")
    assert 0 <= float(score) <= 1
