"""Settings of the one training loop, free of heavy imports so that a laptop can validate them."""

from typing import Literal, Self

from pydantic import Field, model_validator

from equilibrate_core.config import Config, StageConfig
from equilibrate_core.s3_uris import is_s3


class TrainingConfig(Config):
    """How the one training loop runs; defaults are Safe RLHF's (ICLR 2024, appendix)."""

    epochs: int = Field(default=2, ge=1)
    """Passes over the rows."""
    batch_size: int = Field(default=64, ge=1)
    """Pairs per optimizer step, over all processes."""
    micro_batch_size: int = Field(default=8, ge=1)
    """Pairs per forward pass and process at most, in training and evaluation; changes memory, not
    the result."""
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens of both answers, padding included, per forward pass and process at most: bounds the
    memory that long pairs take, so that micro_batch_size can suit short ones. What two answers have
    in common counts once where the model computes it once. A pair that has more by itself goes
    alone. None sets no bound."""
    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay after warm-up, to 0 except for constant."""
    warmup_share: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps over which the rate rises from 0."""
    weight_decay: float = Field(default=0.1, ge=0)
    """AdamW's decoupled decay; norms and biases are left out."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's moment decay rates."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global L2 norm."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """bfloat16 computes matrix products under autocast; weights, heads, log-probs and losses stay
    float32 in both."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage: what is sharded over the processes."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    attention: Literal["sdpa", "flex_attention"] = "sdpa"
    """Who computes attention: torch's `scaled_dot_product_attention`, or its flex attention, which
    passes over what two answers in one row may not see of each other. `flex_attention` needs a
    GPU, a C compiler and a dense decoder of a known family."""
    compile: bool = False
    """Let torch compile the decoder layers, once for all lengths; needs a compiler and takes a
    while at the start. Not with `zero_stage: 3`."""
    eval_every_steps: int = Field(default=0, ge=0)
    """Steps between held-out evaluations during training; 0 evaluates at the end only."""
    checkpoint_uri: str | None = None
    """Folder or s3:// prefix to save checkpoints under and to resume from; None saves none. The
    checkpoint_* settings change neither the result nor the prefix a run's checkpoints lie at."""
    checkpoint_every_steps: int = Field(default=100, ge=1)
    """Optimizer steps between checkpoints."""
    checkpoint_every_minutes: float = Field(default=15.0, gt=0)
    """Minutes after which the next step saves one, however few steps were done."""
    checkpoint_keep: int = Field(default=2, ge=1)
    """Latest checkpoints that stay; older ones are removed."""
    checkpoint_resume_from: str | None = None
    """One checkpoint (its folder or s3:// prefix) to start from; refused unless config, inputs,
    code and number of processes are the same. A later one under checkpoint_uri goes first."""

    @model_validator(mode="after")
    def _compiled_layers_are_whole(self) -> Self:
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile: true needs zero_stage 0, 1 or 2; under 3 each layer stops at every "
                "module to fetch its weights, and its pieces are slower compiled than not"
            )
        return self

    @model_validator(mode="after")
    def _resumed_runs_save(self) -> Self:
        if self.checkpoint_resume_from is not None and self.checkpoint_uri is None:
            raise ValueError("checkpoint_resume_from needs checkpoint_uri: where to go on saving")
        return self


class TrainingStageConfig(StageConfig):
    """What every stage that trains has."""

    num_processes: int = Field(default=1, ge=1)
    """Processes on each node; one per accelerator."""
    num_nodes: int = Field(default=1, ge=1)
    """Nodes; more than one train as a Kubeflow TrainJob, which needs a cluster, a run compiled with
    this number, and `training.checkpoint_uri` on s3://."""
    training: TrainingConfig = TrainingConfig()
    """The training loop's settings."""

    @model_validator(mode="after")
    def _nodes_save_where_all_see_it(self) -> Self:
        if self.num_nodes > 1 and not is_s3(self.training.checkpoint_uri or ""):
            raise ValueError(
                f"num_nodes: {self.num_nodes} needs training.checkpoint_uri: s3://…; its nodes "
                "share no disk, and when one is preempted all go on from there"
            )
        return self
