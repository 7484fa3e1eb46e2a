"""Record how a run ended, whatever happened before.

final state -> one small JSON object at the destination.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from components.record_run.config import RecordRunConfig
from equilibrate_core.artifacts import write_text
from equilibrate_core.s3 import put_if_absent

# The local runner and the Kubeflow backend name the same outcome differently.
SUCCEEDED = ("SUCCEEDED", "COMPLETE", "SUCCESS")


def record_run(
    config: RecordRunConfig, *, run_name: str, state: str, error_code: int, error_message: str
) -> str:
    """Write the record of a run's end and return its URI."""
    record = {
        "run": run_name,
        "outcome": "succeeded" if state in SUCCEEDED else "failed",
        "state": state,
        "error_code": error_code,
        "error_message": error_message,
        "ended": datetime.now(UTC).isoformat(),
    }
    text = json.dumps(record, indent=2) + "\n"
    uri = f"{config.destination_uri.rstrip('/')}/runs/{run_name}.json"
    if uri.startswith("s3://"):
        put_if_absent(uri, text.encode())
    else:
        write_text(Path(uri), text)
    return uri
