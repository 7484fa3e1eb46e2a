"""vllm runs in a child process here: on CPUs it binds threads and memory of the one it runs in."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from equilibrate_core.errors import StageError
from equilibrate_core.generator_config import GeneratorConfig, Sampling
from equilibrate_core.generator_transformers import TransformersGenerator
from equilibrate_core.generator_vllm import VllmGenerator
from equilibrate_core.records import Message
from tests.tiny_model import make_tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[2]
TEXTS = ("How do I bake bread?", "hi", "面包？", "a <|im_end|> b", "long " * 600)
CHOICES = ["EHD", 'a "quoted" one', "面包"]
SCHEMA = {
    "type": "object",
    "properties": {
        "rationale": {"type": "string", "maxLength": 10},
        "category": {"type": "string", "enum": ["A", "B"]},
    },
    "required": ["rationale", "category"],
    "additionalProperties": False,
}
PROGRAM = """
import dataclasses, json, multiprocessing, os, sys
from pathlib import Path
import torch
from equilibrate_core.generator import open_generator
from equilibrate_core.generator_config import GeneratorConfig, Sampling
from equilibrate_core.records import Message

def main():
    folder, texts, choices, schema = json.loads(sys.argv[1])
    rows = [[Message(role="user", content=text)] for text in texts]
    config = GeneratorConfig(
        backend="vllm", dtype="float32", max_model_len=512, batch_size=4, cpu_kv_cache_gib=1
    )
    drawn = Sampling(max_tokens=8, temperature=1.0, seed=3)
    done = []
    before = os.environ.get("LD_PRELOAD"), torch.set_num_threads
    with open_generator(config, Path(folder)) as generator:
        out = {
            "greedy": generator.generate(rows, Sampling(max_tokens=8), on_done=done.append),
            "choices": generator.generate(rows, Sampling(max_tokens=30), choices=choices),
            "schema": generator.generate(rows, Sampling(max_tokens=120), schema=schema),
            "drawn": generator.generate(rows, drawn),
            "drawn backwards": generator.generate(rows[::-1], drawn)[::-1],
        }
    result = {k: [dataclasses.asdict(c) for c in v] for k, v in out.items()}
    result["done"] = sum(done)
    result["children"] = len(multiprocessing.active_children())
    result["environment restored"] = (
        os.environ.get("LD_PRELOAD"), torch.set_num_threads
    ) == before
    Path(folder, "out.json").write_text(json.dumps(result))

if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def answers(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    program = tmp_path_factory.mktemp("program") / "generate.py"
    program.write_text(PROGRAM)
    arguments = json.dumps([str(folder), TEXTS, CHOICES, SCHEMA])
    finished = subprocess.run(
        [sys.executable, str(program), arguments],
        check=False, cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads((folder / "out.json").read_text())


def test_vllm_and_transformers_agree_on_greedy_answers(answers: dict, folder: Path) -> None:
    config = GeneratorConfig(backend="transformers", dtype="float32", max_model_len=512)
    rows = [[Message(role="user", content=text)] for text in TEXTS]
    peers = TransformersGenerator.load(config, folder).generate(rows, Sampling(max_tokens=8))
    assert [c["text"] for c in answers["greedy"]] == [c.text for c in peers]
    assert [c["num_tokens"] for c in answers["greedy"]] == [c.num_tokens for c in peers]
    assert [c["error"] for c in answers["greedy"]] == [c.error for c in peers]


def test_choices_really_constrain(answers: dict) -> None:
    *fitting, too_long = answers["choices"]
    assert all(c["text"] in CHOICES and c["finish_reason"] == "stop" for c in fitting)
    assert not {c["text"] for c in answers["greedy"]} & set(CHOICES)
    assert "leaves room" in too_long["error"]


def test_a_schema_really_constrains(answers: dict) -> None:
    for completion in answers["schema"][:-1]:
        answer = json.loads(completion["text"], strict=False)
        assert list(answer) == ["rationale", "category"]
        assert len(answer["rationale"]) <= 10


def test_vllm_and_transformers_are_equally_sure_of_a_json_verdict(
    answers: dict, folder: Path
) -> None:
    config = GeneratorConfig(backend="transformers", dtype="float32", max_model_len=512)
    rows = [[Message(role="user", content=text)] for text in TEXTS[:-1]]
    generator = TransformersGenerator.load(config, folder)
    peers = generator.generate(rows, Sampling(max_tokens=120), schema=SCHEMA)
    for completion, peer in zip(answers["schema"], peers, strict=False):
        assert completion["text"] == peer.text
        assert set(completion["label_logps"]) == {"A", "B"}
        assert completion["label_logps"] == pytest.approx(peer.label_logps, abs=1e-4)
    for rest in (answers["greedy"], answers["schema"][-1:]):
        assert [c["label_logps"] for c in rest] == [None] * len(rest)


def test_drawn_answers_do_not_depend_on_order(answers: dict) -> None:
    assert answers["drawn"] == answers["drawn backwards"]
    assert answers["drawn"] != answers["greedy"]


def test_the_engine_counts_its_rows_and_leaves_nothing_behind(answers: dict) -> None:
    assert answers["done"] == len(TEXTS)
    assert answers["children"] == 0
    assert answers["environment restored"]


class DeadEngine:
    """An engine whose process is gone."""

    model_config = SimpleNamespace(max_model_len=64)

    def generate(self, *_: object, **__: object) -> list[object]:
        raise RuntimeError("EngineCore died")


def test_a_dead_engine_fails_the_stage_not_a_row() -> None:
    generator = VllmGenerator(DeadEngine(), tiny_tokenizer())
    with pytest.raises(StageError, match="EngineCore died"):
        generator.generate([[Message(role="user", content="hi")]], Sampling(max_tokens=8))


def test_an_engine_is_not_asked_when_no_row_fits() -> None:
    generator = VllmGenerator(DeadEngine(), tiny_tokenizer())
    rows = [[Message(role="user", content="long " * 100)]]
    (completion,) = generator.generate(rows, Sampling(max_tokens=8))
    assert "leaves room for 56" in (completion.error or "")
