"""Config of score_tokens."""

from typing import Literal

from pydantic import Field

from equilibrate_core.config import StageConfig


class ScoreTokensConfig(StageConfig):
    """How every response token is scored, once, before training."""

    segment: Literal["token", "sentence", "response"] = "token"
    """What shares one mask bit; `token` because the paper's figure keeps single words."""
    rewards: Literal["helpful_pairs", "all_pairs"] = "helpful_pairs"
    """Whose tokens the reward model reads: `score: by_dimension` masks harmless pairs by their
    costs alone, `score: combined` needs the rewards of `all_pairs`."""
    max_length: int = Field(default=512, ge=16)
    """Tokens of prompt and answer; a pair with a longer side is dropped and counted."""
    batch_size: int = Field(default=16, ge=1)
    """Sequences per forward pass."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the reference log-probs; keep it equal to train_policy's, or step 0 is not ln 2."""
    attention: Literal["sdpa", "flex_attention"] = "sdpa"
    """As `training.attention`; in bfloat16 keep it equal to train_policy's, since kernels round in
    ways of their own."""
    compile: bool = False
    """As `training.compile`."""
