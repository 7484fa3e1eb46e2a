"""A stage one of whose processes may die without a word: for test_launch alone."""

import os
import sys
import time
from pathlib import Path

from equilibrate_core.config import StageConfig
from equilibrate_core.stage import Metrics, stage_main


class CrashConfig(StageConfig):
    num_processes: int = 2
    crashes: bool = True


def crash(config: CrashConfig, *, target: Path) -> Metrics:
    if os.environ.get("RANK") == "1" and config.crashes:
        # The other process has finished by then: only this one's exit code tells.
        metrics = Path(sys.argv[sys.argv.index("--metrics") + 1])
        while not metrics.exists():
            time.sleep(0.01)
        os._exit(9)
    target.write_text("half a result")
    return {"finished": 1.0}


if __name__ == "__main__":
    raise SystemExit(stage_main(crash, CrashConfig))
