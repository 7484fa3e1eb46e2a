"""The section `study` of a run file: which policies are trained and told beside the run's own."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.assemble_dataset.config import Quotas
from equilibrate_core.config import Config

Size = Annotated[int, Field(ge=0)]
RESERVED = ("base", "control", "aligned")
"""Names that the report gives its own columns."""


class Arm(Config):
    """One policy of the study; what is left out is as in the run's own sections."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9+=_.-]*$", max_length=40)
    """What the report calls it."""
    selection: Literal["fdc", "random", "all"] | None = None
    """How its safety pairs are chosen (assemble_dataset.selection)."""
    quotas: Quotas | None = None
    """Pairs per category (assemble_dataset.quotas)."""
    general_count: int | None = Field(default=None, ge=0)
    """General pairs mixed in (assemble_dataset.general_count)."""
    loss: Literal["adpo", "dpo", "random_mask"] | None = None
    """What it is trained with (train_policy.loss)."""
    seed: int | None = Field(default=None, ge=0)
    """Seed of its training (train_policy.seed): the same arm under another seed shows how much
    chance alone moves the figures."""


class Scaling(Config):
    """One curve: the number of pairs of one category varies, the others stay at their quotas."""

    category: Literal["EHD", "IHD", "MHD"]
    """Whose number varies."""
    sizes: tuple[Size, ...] = Field(min_length=2)
    """Pairs of that category, rising; a size equal to the category's quota is the run's own
    policy and is not trained again."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError("sizes must rise, each once")
        return self


class StudyConfig(Config):
    """An ablation (`arms`), a scaling study (`scaling`), or both, in one run.

    Everything that does not depend on the arm runs once; arms with the same data share them.
    """

    reference: str
    """Name of the arm that is the run's own policy: the gate judges it, publish_model publishes
    it, and the others are compared with it."""
    arms: tuple[Arm, ...] = ()
    """The arms by name, the reference among them if it is to be seen there; the base model needs
    no arm."""
    scaling: tuple[Scaling, ...] = ()
    """Curves of safety, over-refusal and helpfulness against the number of pairs."""
    benchmarks: bool = True
    """Whether the arms beside the reference are benchmarked too; they take most of an arm's time
    where the benchmarks are whole."""


def slug(name: str) -> str:
    """A name as part of an identifier: adpo+fdc -> adpo_fdc."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
