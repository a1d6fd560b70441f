"""The README's code example runs as it stands, and learns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_example_in_the_readme_trains_a_users_own_loop(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    accuracy = float(capsys.readouterr().out.splitlines()[-1])
    assert accuracy > 0.8, "one epoch of the README's example should read four digits in five"


def test_the_readme_stays_short() -> None:
    assert len(README.read_text().splitlines()) < 120
