"""Scorer values equal those of the same folder loaded through transformers, on real conversations.

1e-9 in float64 on a random two-layer model with two templates, 1e-4 on SmolLM2 in float32; one
unpadded row at a time, and a padded batch.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from equilibrate_core.chat import end_of_turn_id
from equilibrate_core.models import DTYPES
from equilibrate_core.scorer import (
    Scorer,
    ScorerConstants,
    load_scorer,
    new_scorer_model,
    save_scorer,
    score_responses,
    token_values,
)
from tests.conversations import Conversation, talks_of
from tests.equilibrate_core.exact_rows import examples, padded

CONSTANTS = ScorerConstants(kind="cost", center=0.0, scale=2.0, token_wise=True)


@dataclass
class Peers:
    """A scorer as we load it and as transformers does, and what both read."""

    ours: Scorer
    theirs: Any
    tokenizer: Any
    talks: Sequence[Conversation]
    tolerance: float

    @cached_property
    def alone(self) -> Tensor:
        """transformers' values, one unpadded row at a time."""
        with torch.no_grad():
            values = [self.theirs(torch.tensor([ids])).logits[0] for ids in self.rows]
        return torch.cat(values).double()

    @cached_property
    def together(self) -> Tensor:
        """transformers' values of one padded batch."""
        inputs = self.tokenizer.pad({"input_ids": self.rows}, return_tensors="pt")
        assert not inputs["attention_mask"].all()
        with torch.no_grad():
            return self.theirs(**inputs).logits[:, 0].double()

    @property
    def rows(self) -> list[list[int]]:
        """All chosen sides, then all rejected ones."""
        found = examples(self.tokenizer, self.talks)
        chosen = [row.prompt_ids + row.chosen_ids for row in found]
        return chosen + [row.prompt_ids + row.rejected_ids for row in found]


@pytest.fixture(scope="module", params=["tiny_model", "tiny_llama3", "smollm2"])
def peers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peers]:
    is_small = request.param == "smollm2"
    dtype = "float32" if is_small else "float64"
    talks = talks_of(request.config, few=is_small)
    folder = tmp_path_factory.mktemp("scorer") / "scorer"
    model, tokenizer = new_scorer_model(request.getfixturevalue(request.param), seed=3, dtype=dtype)
    save_scorer(folder, model, tokenizer, CONSTANTS)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, dtype=DTYPES[dtype])
    ours = load_scorer(folder, dtype=dtype)
    tolerance = 1e-4 if is_small else 1e-9
    yield Peers(ours, theirs.eval(), AutoTokenizer.from_pretrained(folder), talks, tolerance)
    shutil.rmtree(folder)


def our_values(peers: Peers, batch_size: int) -> Tensor:
    """Values by our code, before they are normalised, in the order of `Peers.rows`."""
    talks = peers.talks
    values = score_responses(
        peers.ours,
        [messages for messages, _, _ in talks] * 2,
        [chosen for _, chosen, _ in talks] + [rejected for _, _, rejected in talks],
        [True] * 2 * len(talks),
        batch_size=batch_size,
        max_length=2048,
    )
    return torch.tensor(values, dtype=torch.float64) * CONSTANTS.scale


@pytest.mark.parametrize("batch_size", [1, 3])
def test_values_equal_those_of_transformers(peers: Peers, batch_size: int) -> None:
    ours = our_values(peers, batch_size)
    for theirs in (peers.alone, peers.together):
        torch.testing.assert_close(ours, theirs, atol=peers.tolerance, rtol=0)
    assert peers.alone.std() > 100 * peers.tolerance


def test_two_answers_in_one_row_give_the_same_values(peers: Peers) -> None:
    batch, wanted = padded(examples(peers.tokenizer, peers.talks), shared=True)
    assert batch.shared is not None
    with torch.no_grad():
        values_NL = token_values(peers.ours.model, batch)
    lasts = wanted.long().cumsum(dim=1).argmax(dim=1)
    ours = values_NL.gather(1, lasts[:, None])[:, 0].double()
    torch.testing.assert_close(ours, peers.alone, atol=peers.tolerance, rtol=0)


def test_both_read_the_end_of_turn_token(peers: Peers) -> None:
    end_id = end_of_turn_id(peers.tokenizer)
    assert all(ids[-1] == end_id for ids in peers.rows)
    assert peers.theirs.config.pad_token_id == peers.tokenizer.pad_token_id != end_id
