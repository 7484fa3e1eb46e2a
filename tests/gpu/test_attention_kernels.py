"""On a CUDA device: which kernels attention takes, and that each gives what sdpa gives.

`make test-gpu` runs these; elsewhere they fail rather than pass over what is not there.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel

from components.train_policy.config import TrainPolicyConfig
from components.train_policy.stage import train_policy
from equilibrate_core.batches import PaddedBatch
from equilibrate_core.compiling import compile_layers
from equilibrate_core.logps import token_logps
from equilibrate_core.models import Attention, Precision, load_causal_lm, load_tokenizer
from equilibrate_core.plain_head import has_plain_head
from equilibrate_core.training_config import TrainingConfig
from tests.components.scored_pairs import scored_pair
from tests.components.scoring_fixtures import as_dataset, harm_pairs
from tests.equilibrate_core.ragged_pairs import RAGGED, Parts, batches

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]
Figures = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(autouse=True)
def cuda() -> torch.device:
    assert torch.cuda.is_available(), "these tests need a CUDA device"
    torch._dynamo.reset()
    counters.clear()
    return torch.device("cuda", torch.cuda.current_device())


def loaded(folder: Path, attention: Attention = "sdpa", *, compiles: bool = False) -> Any:
    model = load_causal_lm(folder, attention=attention).train()
    assert model.device.type == "cuda"
    has_plain_head(model)
    if compiles:
        compile_layers(model)
    return model


def figures(
    model: Any, batch: PaddedBatch, wanted: torch.Tensor, precision: Precision = "float32"
) -> Figures:
    """Log-probs, and the gradient of their weighted sum, flat."""
    model.zero_grad()
    logps = token_logps(model, batch, wanted, precision)
    logps.sum(dim=1).mul(torch.linspace(1, -1, len(logps), device=logps.device)).sum().backward()
    return logps.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


def errors(found: Figures, exact: Figures) -> tuple[float, float]:
    """Root mean square error of the log-probs, relative error of the gradient."""
    logps_error = (found[0] - exact[0]).square().mean().sqrt()
    return float(logps_error), float((found[1] - exact[1]).norm() / exact[1].norm())


def check_rounding(found: tuple[float, float], usual: tuple[float, float]) -> None:
    """Errors in bfloat16 are those of the usual kernels, or little more."""
    assert all(error <= 2 * own for error, own in zip(found, usual, strict=True))


def test_rows_of_one_answer_take_the_flash_kernel_forward_and_backward(
    tiny_model: Path, cuda: torch.device
) -> None:
    shared, apart, wanted = batches(RAGGED["over blocks"], cuda)
    model = loaded(tiny_model)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # no other one is allowed
        logps, gradient = figures(model, apart, wanted, "bfloat16")
        with pytest.raises(RuntimeError, match="No available kernel"):
            figures(model, shared, wanted, "bfloat16")
    assert logps.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("parts", RAGGED.values(), ids=RAGGED)
@pytest.mark.parametrize("compiles", [False, True], ids=["", "compiled layers"])
def test_flex_attention_gives_what_sdpa_gives(
    tiny_model: Path, cuda: torch.device, parts: Parts, compiles: bool
) -> None:
    sdpa = loaded(tiny_model)
    flex = loaded(tiny_model, "flex_attention", compiles=compiles)
    shared, apart, wanted = batches(parts, cuda)
    for batch in (shared, apart):
        exact = figures(sdpa, batch, wanted)
        assert max(errors(figures(flex, batch, wanted), exact)) <= 1e-3
        rounded = errors(figures(sdpa, batch, wanted, "bfloat16"), exact)
        check_rounding(errors(figures(flex, batch, wanted, "bfloat16"), exact), rounded)


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
def test_compiled_layers_give_what_they_gave_for_many_shapes(
    tiny_model: Path, cuda: torch.device, attention: Attention
) -> None:
    plain, compiled = (loaded(tiny_model, attention, compiles=c) for c in (False, True))
    shapes: list[Parts] = [[(5, 9, 20)] * 2, [(40, 3, 7)] * 3, [(11, 13, 60)] * 4, [(90, 300, 9)]]
    for parts in shapes:
        shared, _, wanted = batches(parts, cuda)
        exact = figures(plain, shared, wanted)
        assert max(errors(figures(compiled, shared, wanted), exact)) <= 1e-3
        rounded = errors(figures(plain, shared, wanted, "bfloat16"), exact)
        check_rounding(errors(figures(compiled, shared, wanted, "bfloat16"), exact), rounded)
    if attention == "sdpa":
        # Two precisions, batches of one row and of more.
        assert counters["stats"]["unique_graphs"] <= 4


@pytest.mark.parametrize("compiles", [False, True], ids=["", "compiled layers"])
def test_a_policy_trains_under_flex_attention(
    tiny_model: Path, tmp_path: Path, compiles: bool
) -> None:
    model = load_causal_lm(tiny_model, place=torch.device("cpu"))
    tokenizer = load_tokenizer(tiny_model)
    scored = [scored_pair(pair, model, tokenizer, kept=8) for pair in harm_pairs(6)]
    training = TrainingConfig(
        batch_size=3,
        learning_rate=3e-3,
        precision="float32",
        zero_stage=0,
        attention="flex_attention",
        compile=compiles,
    )
    metrics = train_policy(
        TrainPolicyConfig(training=training),
        scored_pairs=as_dataset(tmp_path / "scored", scored),
        eval_pairs=as_dataset(tmp_path / "eval", harm_pairs(2)),
        base_model=tiny_model,
        policy=tmp_path / "policy",
    )
    assert metrics["first_step_loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert metrics["final_loss"] < metrics["first_step_loss"]
