"""Config of train_scorer."""

from typing import Literal

from pydantic import Field

from equilibrate_core.training_config import TrainingStageConfig


class TrainScorerConfig(TrainingStageConfig):
    """How one reward or cost model is trained."""

    kind: Literal["reward", "cost"] = "reward"
    """`reward` learns from helpful pairs, `cost` from harmless pairs with safety labels."""
    rows: Literal["all", "first_half", "second_half"] = "all"
    """Share of the prompts it sees, split by a hash: the cost model that makes masks takes the
    first half, the one that judges the result the second. Near-duplicates and conversations that
    continue one another are in one half."""
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of its prompts kept out of training, for calibration and the reported accuracy, with
    those that are like them or continue them."""
    token_wise: bool = True
    """Apply the loss at every position from the first difference on, so that intermediate values
    and their zero mean something; False reads the last token only (Safe RLHF)."""
    regularization: float = Field(default=0.001, ge=0)
    """Weight mu of the mean square of the values (Safe RLHF)."""
    max_length: int = Field(default=512, ge=16)
    """Tokens of prompt and answer; a pair with a longer side is dropped and counted."""
