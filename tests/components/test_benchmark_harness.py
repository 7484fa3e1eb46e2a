"""What the harness is told: the seed of its worked examples, and how vllm runs the model."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval.config.evaluate_config import DEFAULT_SEED
from pydantic import ValidationError

from components.score_benchmarks.config import BENCHMARKS
from components.score_benchmarks.data import read_parts
from components.score_benchmarks.harness import open_model, score_tasks
from components.score_benchmarks.stage import score_benchmarks
from components.score_benchmarks.tasks import local_tasks
from equilibrate_core.digests import ROOT
from tests.components.test_score_benchmarks import (
    SAMPLE,
    Scripted,
    config,
    read_items,
    read_scores,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def two_random_shots(seed: int) -> Any:
    """A task that draws two of its rows for every prompt, as those of the hub do."""
    settings = config(num_fewshot={"arc_easy": 2}, seed=seed)
    return settings, local_tasks(settings, "arc_easy", read_parts("arc_easy", SAMPLE, 0))


@pytest.mark.parametrize("seed", [0, 7])
def test_worked_examples_are_those_of_the_harness_command_line_whatever_the_seed(seed: int) -> None:
    asked = []
    for drawn_with in (DEFAULT_SEED[3], seed):
        _, tasks = two_random_shots(seed)
        tasks["arc_easy"].set_fewshot_seed(drawn_with)
        tasks["arc_easy"].build_all_requests(rank=0, world_size=1)
        asked.append([request.args for request in tasks["arc_easy"].instances])
    settings, tasks = two_random_shots(seed)
    model = Scripted([])
    score_tasks(settings, "arc_easy", model, tasks)
    assert model.asked == asked[0]
    assert model.asked != asked[1], "the draws tell the seeds apart"


class Engine:
    """The harness's VLLM with its own names of arguments; no engine behind it."""

    started: dict[str, Any]
    stopped = 0

    def __init__(
        self, *, pretrained: str, dtype: str, trust_remote_code: bool, tensor_parallel_size: int,
        batch_size: str | int, max_model_len: int | None, seed: int, load_format: str,
        max_num_seqs: int, gpu_memory_utilization: float,
        chat_template_args: dict[str, Any],
    ) -> None:  # fmt: skip
        Engine.started = {"pretrained": pretrained, "tensor_parallel_size": tensor_parallel_size}
        self.model = SimpleNamespace(llm_engine=SimpleNamespace(engine_core=self))

    def shutdown(self) -> None:
        Engine.stopped += 1


def test_vllm_shares_the_model_between_as_many_accelerators_as_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = SimpleNamespace(is_cpu=lambda: False)
    monkeypatch.setitem(
        sys.modules, "vllm.platforms", SimpleNamespace(current_platform=accelerator)
    )
    monkeypatch.setitem(sys.modules, "lm_eval.models.vllm_causallms", SimpleNamespace(VLLM=Engine))
    nothing_left = SimpleNamespace(cleanup_dist_env_and_memory=lambda: None)
    monkeypatch.setitem(sys.modules, "vllm.distributed", nothing_left)
    for fields, size in (({}, 1), ({"tensor_parallel_size": 4}, 4)):
        with open_model(config(backend="vllm", **fields), tmp_path):
            assert Engine.started == {"pretrained": str(tmp_path), "tensor_parallel_size": size}
    assert Engine.stopped == 2


def test_transformers_cannot_share_a_model_between_accelerators() -> None:
    with pytest.raises(ValidationError, match="transformers runs on one accelerator; set backend"):
        config(tensor_parallel_size=2)


def test_vllm_scores_every_item_as_transformers_does(tiny_model: Path, tmp_path: Path) -> None:
    settings = {
        "data_uri": str(SAMPLE), "items_are_samples": True, "items_per_benchmark": 2,
        "dtype": "float32", "max_gen_tokens": 8, "max_length": 512, "cpu_kv_cache_gib": 1,
    }  # fmt: skip
    # In a child: on CPUs vllm binds threads and memory of the process it runs in.
    outputs = {backend: tmp_path / backend for backend in ("vllm", "transformers")}
    done = subprocess.run(
        [
            sys.executable, "-m", "components.score_benchmarks.stage",
            "--config", json.dumps(settings | {"backend": "vllm"}),
            "--model", str(tiny_model), "--benchmark_scores", str(outputs["vllm"]),
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    json.loads(done.stdout)  # nothing but the stage's result
    score_benchmarks(config(**settings), model=tiny_model, benchmark_scores=outputs["transformers"])
    for output in outputs.values():
        tasks = read_scores(output)["tasks"]
        assert {name: task["error"] for name, task in tasks.items()} == dict.fromkeys(BENCHMARKS)
    items = {backend: read_items(output) for backend, output in outputs.items()}
    assert len(items["vllm"]) == 2 * len(BENCHMARKS)
    assert items["vllm"] == items["transformers"]
