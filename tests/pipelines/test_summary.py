"""What a local run prints at its end."""

from pathlib import Path

import pytest

from pipelines.local import Outcome
from pipelines.summary import print_summary


def test_every_line_of_the_summary_is_printed_however_many(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [f"line {number} of the report" for number in range(14)]
    publication = {"published": False, "uri": None, "reason": "the gate refused"}
    print_summary(Outcome(Path("runs/x"), publication, lines, [("write_report", "done", 1.0)], 2.0))
    printed = capsys.readouterr().out
    assert [line for line in lines if line not in printed] == []
