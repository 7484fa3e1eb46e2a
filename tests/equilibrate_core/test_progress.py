from types import SimpleNamespace

import pytest

from equilibrate_core import progress
from equilibrate_core.progress import Progress


def test_time_left_does_not_count_what_an_earlier_run_did(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    caplog.set_level("INFO")
    work = Progress("judge", total=1000, unit="verdict")
    work.skip(900)
    clock.now = 10.0
    work.advance(10)
    assert caplog.messages == ["judge: 910/1000 verdicts, 1.00/s, 90 s left"]
