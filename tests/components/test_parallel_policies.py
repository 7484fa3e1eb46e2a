"""ZeRO stages, and processes that keep unlike numbers of tokens, train the same policy."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from components.train_policy.masking import PolicyRow
from components.train_policy.stage import training_rows
from equilibrate_core.artifacts import Counts
from equilibrate_core.batches import PaddedBatch
from equilibrate_core.logps import VOCABULARY_CHUNK, span_mask, token_logps
from equilibrate_core.models import load_causal_lm, load_tokenizer
from equilibrate_core.records import ScoredPair
from equilibrate_core.tables import read_dataset
from tests.components.parallel_policies import BFLOAT16, TRAINING, config
from tests.components.scored_pairs import scored_pair
from tests.components.scoring_fixtures import as_dataset, make_pair
from tests.equilibrate_core.test_parallel_training import TORCHRUN, results

PROGRAM = "tests.components.parallel_policies"
TOGETHER = ("zero-2", "zero-3", "zero-3-checkpointing")


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pairs, each longer than the one before it; every second one keeps few tokens."""
    root = tmp_path_factory.mktemp("parallel")
    model, tokenizer = load_causal_lm(tiny_model), load_tokenizer(tiny_model)
    digits = "0123456789" * 20
    pairs = [
        make_pair(f"Count {i}!", f"no {digits[: 140 + 3 * i]}", f"yes {digits[: 141 + 3 * i]}")
        for i in range(8)
    ]
    scored = [
        scored_pair(pair, model, tokenizer, kept=12 if i % 2 else 10_000)
        for i, pair in enumerate(pairs)
    ]
    as_dataset(root / "scored", scored)
    as_dataset(root / "eval", [make_pair(f"And {i}?", "no no", f"yes, do {i}") for i in range(3)])
    (root / "base").symlink_to(tiny_model, target_is_directory=True)
    return root


@pytest.fixture(scope="module")
def bfloat16_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pairs with reference log-probs computed in bfloat16, as score_tokens does it."""
    root = tmp_path_factory.mktemp("bfloat16")
    pairs = read_dataset(folder / "scored", ScoredPair)
    model = load_causal_lm(folder / "base")
    as_dataset(root / "scored", [with_bfloat16_reference(pair, model) for pair in pairs])
    for name in ("eval", "base"):
        (root / name).symlink_to(folder / name, target_is_directory=True)
    return root


@torch.no_grad()
def with_bfloat16_reference(pair: ScoredPair, model: Any) -> ScoredPair:
    start, answers = len(pair.prompt_token_ids), (pair.chosen_token_ids, pair.rejected_token_ids)
    sides = [[pair.prompt_token_ids + ids] for ids in answers]
    batch = PaddedBatch.of_pairs(*sides, pad_id=0, device=torch.device("cpu"))
    ends = [start + len(ids) for ids in answers]
    wanted = span_mask([start] * 2, ends, batch.input_ids_NL.shape[1])
    logps = token_logps(model, batch, wanted, "bfloat16").tolist()
    return pair.model_copy(
        update={
            f"{side}_reference_logps": row[start:end]
            for side, row, end in zip(("chosen", "rejected"), logps, ends, strict=True)
        }
    )


def num_kept(row: PolicyRow) -> int:
    return int(row.chosen.mask.sum() + row.rejected.mask.sum())


def test_two_processes_that_keep_unlike_numbers_of_tokens_train_as_one_does(
    folder: Path, tmp_path: Path
) -> None:
    rows = training_rows(config("full-zero-0"), folder / "scored", Counts())
    kept = [num_kept(row) for row in sorted(rows, key=lambda row: row.length)]
    # Of rows in order of length two processes take every second one.
    assert min(kept[0::2]) * TRAINING.micro_batch_size > 2 * VOCABULARY_CHUNK
    assert max(kept[1::2]) * TRAINING.micro_batch_size < VOCABULARY_CHUNK
    plain = results([], folder, tmp_path / "one", "full-zero-0", "lora-zero-0", program=PROGRAM)
    for kind in ("full", "lora"):
        expected = plain[f"{kind}-zero-0"]
        assert max(expected["losses"]) - min(expected["losses"]) > 100 * 1e-4
        names = [f"{kind}-{setting}" for setting in TOGETHER]
        together = results(TORCHRUN, folder, tmp_path / kind, *names, program=PROGRAM)
        for name, run in together.items():
            error = (run["gradient"] - expected["gradient"]).norm() / expected["gradient"].norm()
            assert error <= 1e-5, name
            assert run["losses"] == pytest.approx(expected["losses"], abs=1e-4), name
            assert run["kl"] == pytest.approx(expected["kl"], rel=1e-2), name
            drift = (run["moved"] - expected["moved"]).norm() / expected["moved"].norm()
            assert drift <= 1e-2, name


def test_in_bfloat16_two_processes_start_at_ln_2_and_train_nearly_as_one_does(
    bfloat16_folder: Path, tmp_path: Path
) -> None:
    alone, *together = [f"full-{name}" for name in BFLOAT16]
    plain = results([], bfloat16_folder, tmp_path / "one", alone, "full-zero-0", program=PROGRAM)
    expected = plain[alone]
    assert expected["losses"] != plain["full-zero-0"]["losses"], "bfloat16 was not used"
    runs = results(TORCHRUN, bfloat16_folder, tmp_path / "two", *together, program=PROGRAM)
    for name, run in (runs | {alone: expected}).items():
        assert run["losses"][0] == pytest.approx(math.log(2), abs=0.02), name
        error = (run["gradient"] - expected["gradient"]).norm() / expected["gradient"].norm()
        assert error <= 2e-2, name
        assert run["losses"] == pytest.approx(expected["losses"], abs=1e-2), name
        drift = (run["moved"] - expected["moved"]).norm() / expected["moved"].norm()
        assert drift <= 0.2, name
