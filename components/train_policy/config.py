"""Config of train_policy."""

from typing import Literal

from pydantic import Field

from equilibrate_core.config import Config
from equilibrate_core.training_config import TrainingConfig, TrainingStageConfig


class AmaConfig(Config):
    """The message-wise mask: which tokens of a pair the loss may look at."""

    credit: Literal["value", "delta"] = "value"
    """`value` reads the scorers at each token (the published intent); `delta` takes differences."""
    score: Literal["by_dimension", "combined"] = "by_dimension"
    """`by_dimension`: -c on harmless pairs, r - lambda max(c, 0) on helpful; `combined`:
    r - lambda c everywhere, for comparison."""
    cost_weight: float = Field(default=1.0, ge=0)
    """Lambda: how much a unit of scaled cost weighs against a unit of normalised reward."""
    baseline: Literal["zero", "dataset_mean", "response_mean", "batch_mean"] | float = "zero"
    """Chosen keeps segments above it, rejected those below it; `batch_mean` is experimental."""
    min_kept: float = Field(default=0.1, ge=0, le=1)
    """Least share of a response's tokens to keep, where it has two segments or more."""


class LoraConfig(Config):
    """Low-rank adapters instead of full fine-tuning; merged before the policy leaves."""

    rank: int = Field(default=16, ge=1)
    """Rank of the adapters."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale; adapters are multiplied by alpha / rank."""


class TrainPolicyConfig(TrainingStageConfig):
    """How the policy is trained."""

    loss: Literal["adpo", "dpo", "random_mask"] = "adpo"
    """`adpo` masks by AMA; `dpo` keeps every token; `random_mask` keeps AMA's share at random."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull towards the reference (arXiv 2305.18290)."""
    ama: AmaConfig = AmaConfig()
    """The masks of `adpo` and, for their share alone, of `random_mask`."""
    lora: LoraConfig | None = None
    """Train adapters instead of all weights."""
    max_length: int = Field(default=512, ge=16)
    """Tokens of prompt and answer on the held-out pairs; training pairs were cut before."""
    max_eval_pairs: int = Field(default=256, ge=1)
    """Held-out pairs on which preference accuracy is reported."""
    max_kl_pairs: int = Field(default=64, ge=0)
    """Held-out pairs on which the exact KL to the reference is computed, over the vocabulary; the
    reference's hidden states of their answers stay in main memory. 0 computes none."""
    num_previews: int = Field(default=4, ge=0)
    """Pairs whose masks are kept for the report."""
    training: TrainingConfig = TrainingConfig(epochs=1, learning_rate=1e-6, weight_decay=0.0)
    """The training loop's settings; one epoch at 1e-6 as in DPO's recipes."""
