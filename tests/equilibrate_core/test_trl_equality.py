"""Log-probs, DPO loss and its gradient equal TRL's, on real conversations and identical token ids.

1e-9 in float64 on a random two-layer model with a ChatML and a Llama-3 style template, 1e-4 on
SmolLM2 in float32. TRL 1.16's fused head sums in float32 whatever the model runs in, so in float64
its trainer is given TRL's other log-softmax (`selective_log_softmax`, the one its CPO and ORPO
trainers use), which keeps float64; collator, loss and reductions are its own either way.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.train_policy.masking import AnswerRow, PolicyRow
from components.train_policy.objective import PolicyObjective
from equilibrate_core.logps import token_logps
from equilibrate_core.losses import adpo_loss, dpo_loss
from equilibrate_core.models import load_causal_lm, load_tokenizer
from tests.conversations import Conversation, talks_of
from tests.equilibrate_core.exact_rows import Example, examples, padded

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and its libraries' own
BETA = 0.3


class Float64Head:
    """A model that answers TRL's trainer as its fused head does, in the model's own precision."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, *, labels: Tensor, fused_lm_head: bool, **inputs: Tensor) -> Any:
        from trl.trainer.utils import FusedCausalLMOutput, selective_log_softmax_and_entropy

        logits, labels = self.model(**inputs).logits[:, :-1], labels[:, 1:]
        targets = labels.clamp(min=0)
        logps, entropy = selective_log_softmax_and_entropy(logits, targets, row_mask=labels != -100)
        return FusedCausalLMOutput(
            log_probs=logps,
            entropy=entropy,
            mean_logits=logits.mean(-1),
            is_top1=logits.argmax(-1) == targets,
        )


@dataclass
class Peers:
    """TRL's trainer over a policy and its reference, and what both sides say of the same rows."""

    trainer: Any
    policy: Any
    reference: Any
    rows: list[Example]

    @property
    def is_exact(self) -> bool:
        return self.policy.dtype == torch.float64

    @property
    def tolerance(self) -> dict[str, float]:
        return {"abs": 1e-9 if self.is_exact else 1e-4, "rel": 0}

    @cached_property
    def our_logps(self) -> list[Tensor]:
        """Policy's and reference's, chosen rows first, both answers in one row."""
        batch, wanted = padded(self.rows, shared=True)
        with torch.no_grad():
            return [token_logps(model, batch, wanted) for model in (self.policy, self.reference)]

    @cached_property
    def their_loss(self) -> float:
        return self.trl_loss(self.rows)

    def inputs(self, rows: Sequence[Example]) -> dict[str, Tensor]:
        """The batch as TRL's own collator makes it."""
        return self.trainer.data_collator([asdict(row) for row in rows])

    def trl_loss(self, rows: Sequence[Example]) -> float:
        model = Float64Head(self.policy) if self.is_exact else self.trainer.model
        with torch.no_grad():
            loss = self.trainer._compute_loss(model, self.inputs(rows), return_outputs=False)
        assert loss.dtype == self.policy.dtype
        return loss.item()


def nudged(model: Any) -> Any:
    """A copy whose weights are a hundredth off: a reference that differs, but not wildly."""
    generator = torch.Generator().manual_seed(1)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            weight.add_(0.01 * weight.std() * noise)
    return other


def make_peers(folder: Path, work: Path, dtype: str, talks: Sequence[Conversation]) -> Peers:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    tokenizer = load_tokenizer(folder)
    policy = load_causal_lm(folder, dtype=dtype)
    reference = nudged(policy)
    dataset = [
        {
            "prompt": [{"role": m.role, "content": m.content} for m in messages],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for messages, chosen, rejected in talks
    ]
    settings = DPOConfig(
        str(work), beta=BETA, max_length=None, use_cpu=True, report_to="none", bf16=False
    )
    trainer: Any = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=settings,
        train_dataset=Dataset.from_list(dataset),
        processing_class=tokenizer,
    )
    trainer.model.eval()
    if dtype == "float64":
        trainer.ref_model = Float64Head(reference)
    return Peers(trainer, policy, reference, examples(tokenizer, talks))


@pytest.fixture(scope="module", params=["tiny_model", "tiny_llama3", "smollm2"])
def peers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Peers:
    folder: Path = request.getfixturevalue(request.param)
    is_real = request.param == "smollm2"
    dtype = "float32" if is_real else "float64"
    talks = talks_of(request.config, few=is_real)
    return make_peers(folder, tmp_path_factory.mktemp("trl"), dtype, talks)


def policy_rows(peers: Peers) -> list[PolicyRow]:
    """Rows of the objective that training runs, all tokens kept."""

    def answer(logps_L: Tensor, start: int, ids: list[int]) -> AnswerRow:
        zeros_T = torch.zeros(len(ids))
        return AnswerRow(
            ids,
            logps_L[start : start + len(ids)].tolist(),
            list(range(len(ids))),
            zeros_T,
            zeros_T,
            torch.ones(len(ids), dtype=torch.bool),
        )

    chosen, rejected = peers.our_logps[1].chunk(2)
    return [
        PolicyRow(
            str(i),
            row.prompt_ids,
            answer(chosen[i], len(row.prompt_ids), row.chosen_ids),
            answer(rejected[i], len(row.prompt_ids), row.rejected_ids),
            first_difference=0,
            category="NONE",
        )
        for i, row in enumerate(peers.rows)
    ]


def test_trl_tokenises_the_conversations_as_we_do(peers: Peers) -> None:
    for theirs, ours in zip(peers.trainer.train_dataset, peers.rows, strict=True):
        assert theirs["prompt_ids"] == ours.prompt_ids
        for name in ("chosen_ids", "rejected_ids"):
            # What the template writes behind the end-of-turn token is no answer: we leave it out.
            behind = theirs[name][len(getattr(ours, name)) :]
            assert theirs[name] == getattr(ours, name) + behind
            assert peers.trainer.processing_class.decode(behind).strip() == ""


def test_per_token_log_probs_equal_trls(peers: Peers) -> None:
    from trl.trainer.utils import selective_log_softmax

    inputs = peers.inputs(peers.rows)
    batch, wanted = padded(peers.rows, shared=False)
    assert torch.equal(inputs["completion_mask"].bool(), wanted)
    with torch.no_grad():
        logits = peers.policy(inputs["input_ids"], inputs["attention_mask"]).logits
        theirs = selective_log_softmax(logits[:, :-1], inputs["input_ids"][:, 1:])
        apart = token_logps(peers.policy, batch, wanted)
    kept = wanted[:, 1:]
    assert theirs[kept].std() > 0.5
    for ours in (apart, peers.our_logps[0]):
        assert ours.dtype == theirs.dtype == peers.policy.dtype
        atol = peers.tolerance["abs"]
        torch.testing.assert_close(ours[:, 1:][kept], theirs[kept], atol=atol, rtol=0)


def test_the_dpo_loss_equals_trls(peers: Peers) -> None:
    sums = [part for logps in peers.our_logps for part in logps.sum(-1).chunk(2)]
    whole = dpo_loss(*sums, beta=BETA).item()
    assert whole == pytest.approx(peers.their_loss, **peers.tolerance)
    each = [dpo_loss(*(s[i : i + 1] for s in sums), beta=BETA).item() for i in range(len(sums[0]))]
    # Neither policy nor reference is blind: losses are not ln 2, and few are saturated.
    telling = [abs(loss - 0.6931) > 0.001 and 0.001 < loss < 20 for loss in each]
    assert sum(telling) > 0.8 * len(each)
    if peers.is_exact:  # a real model would take too long row by row
        theirs = [peers.trl_loss([row]) for row in peers.rows]
        assert each == pytest.approx(theirs, **peers.tolerance)


def test_all_ones_masks_give_trls_dpo_loss(peers: Peers) -> None:
    _, wanted = padded(peers.rows, shared=False)
    sides = [side for logps in peers.our_logps for side in logps.chunk(2)]
    ours = adpo_loss(*sides, *wanted.chunk(2), beta=BETA).item()
    assert ours == pytest.approx(peers.their_loss, **peers.tolerance)


def test_the_objective_that_training_runs_equals_trls_loss(peers: Peers) -> None:
    objective = PolicyObjective(peers.policy, beta=BETA, pad_id=0, precision="float32")
    with torch.no_grad():
        ours = objective(policy_rows(peers))["loss"].mean().item()
    assert ours == pytest.approx(peers.their_loss, **peers.tolerance)


@pytest.mark.parametrize("shared", [False, True])
def test_the_gradient_that_training_uses_equals_trls(
    peers: Peers, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shared:
        monkeypatch.setattr("equilibrate_core.batches.SHARING_MODELS", frozenset())
    objective = PolicyObjective(peers.policy, beta=BETA, pad_id=0, precision="float32")
    ours = gradients(peers.policy, objective(policy_rows(peers))["loss"].mean())
    model = Float64Head(peers.policy) if peers.is_exact else peers.trainer.model
    loss = peers.trainer._compute_loss(model, peers.inputs(peers.rows), return_outputs=False)
    theirs = gradients(peers.policy, loss)
    assert theirs.norm() > 0.1
    # Transformers' RMSNorm computes in float32 whatever it is given, and its gradient sums over
    # tokens: how they lie in rows shows in float32's last places.
    tolerance = 1e-6 if shared and peers.is_exact else peers.tolerance["abs"]
    assert (ours - theirs).norm() <= tolerance * theirs.norm()


def gradients(model: Any, loss: Tensor) -> Tensor:
    """The gradient of all weights in one row; the model is left without any."""
    model.zero_grad()
    loss.backward()
    found = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    model.zero_grad()
    return found
