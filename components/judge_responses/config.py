"""Config of judge_responses."""

from pydantic import Field

from equilibrate_core.judge_config import JudgeConfig


class JudgeResponsesConfig(JudgeConfig):
    """How one model's answers are judged."""

    safety_of_benign: bool = False
    """Also ask for the safety of answers to benign prompts, which are judged for refusal anyway."""
    max_human_labels: int = Field(default=200, ge=0)
    """Questions of each kind (safety, refusal, preference) that people have answered too, which
    judge and cost model are checked on: answers that people labelled, and held-out helpful pairs,
    two questions each. The cost model has as many held-out pairs' flags, and as many labelled
    answers that are new to it. 0 for none."""
    scorer_batch_size: int = Field(default=16, ge=1)
    """Answers scored at once by the reward and cost models."""
    scorer_max_length: int = Field(default=2048, ge=16)
    """Tokens of prompt and answer that the scorers read; longer ones stay unscored."""
