"""The compiled pipeline that is kept for review; `make golden` writes it anew.

Digests of code are replaced by words: they change with every edit, which says nothing here.
"""

from pathlib import Path

from equilibrate_core.digests import code_digest
from pipelines.kubeflow_config import POOLS
from pipelines.run_config import load_run
from pipelines.submit import compile_run

FOLDER = Path(__file__).parent / "golden"
GOLDEN = FOLDER / "pipeline.yaml"


def compiled_now() -> str:
    text = compile_run(load_run(FOLDER / "run.yaml")).text
    for stage in POOLS:
        digest = code_digest(stage)
        text = text.replace(f"'{digest}'", digest).replace(digest, f"code-of-{stage}")
    return text


if __name__ == "__main__":
    GOLDEN.write_text(compiled_now(), encoding="utf-8")
    print(f"wrote {GOLDEN}")
