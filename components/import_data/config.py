"""Config of import_data: which sources to read, and how each is to be understood."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from equilibrate_core.config import Config, StageConfig
from equilibrate_core.records import Category, Dimension

AdapterName = Literal[
    "equilibrate",
    "pku_saferlhf",
    "pku_saferlhf_full",
    "hh_rlhf",
    "dpo_demo",
    "xstest",
    "or_bench",
    "harmbench",
    "strongreject",
    "beavertails_evaluation",
    "safe_rlhf_problem_83",
    "simple_safety_tests",
    "mt_bench",
    "alpaca_eval",
    "wildchat",
    "prompts",
    "pairs",
    "answers",
    "gptfuzz",
    "pyrit_refusal",
]
ANSWER_ADAPTERS = ("answers", "gptfuzz", "pyrit_refusal")
"""Those whose rows are answers that people labelled: judges are checked against them."""
GENERIC_FIELDS: dict[str, tuple[str, ...]] = {
    "prompts": ("prompt", "id", "category", "label", "references", "language"),
    "pairs": (
        "prompt",
        "id",
        "category",
        "language",
        "chosen",
        "rejected",
        "dimension",
        "chosen_is_safe",
        "rejected_is_safe",
    ),
    "answers": ("prompt", "answer", "is_safe", "refusal"),
}
"""What the generic adapters can read, and so what `fields` may map."""


class Source(Config):
    """One place rows come from; a value given here wins over the row's and the adapter's own."""

    name: str = Field(pattern=r"^[\w.-]+$")
    """Short name that rows and counts carry; unique in the run."""
    uri: str = Field(min_length=1)
    """Local file or folder, s3://bucket/key or folder, or hf://org/name[/subset][@revision]."""
    adapter: AdapterName
    """How rows are laid out: a public dataset's name, or the generic `prompts`, `pairs` or
    `answers` (answers with people's labels, which judges are checked against)."""
    limit: int | None = Field(default=None, ge=1)
    """Read at most this many rows (bad ones included); None reads all."""
    suite: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    """Evaluation suite of the prompts; None leaves the adapter's (xstest → 'xstest')."""
    is_harmful: bool | None = None
    """Whether a safe model should decline these prompts; None leaves it to row and adapter."""
    dimension: Dimension | None = None
    """What `chosen` is better at, of pairs; None leaves it to row and adapter."""
    category: Category | None = None
    """Gold category of every row; None leaves it to the row."""
    licence: str = "unknown"
    """Licence of the source; it follows the rows into the data card."""
    fields: dict[str, str] = Field(default={})
    """Generic adapters only: our field → the source's column, dots for nested ones."""
    split: str = "train"
    """Split of an hf:// dataset."""

    @field_validator("name")
    @classmethod
    def _name_is_no_path(cls, name: str) -> str:
        if name in (".", ".."):
            raise ValueError(f"{name!r} means a folder; give the source a name of letters")
        return name

    @model_validator(mode="after")
    def _scheme_is_known(self) -> Self:
        scheme, separator, _ = self.uri.partition("://")
        if separator and scheme not in ("s3", "hf"):
            raise ValueError(f"uri {self.uri!r}: only s3://, hf:// and local paths can be read")
        return self

    @model_validator(mode="after")
    def _answers_are_no_prompts(self) -> Self:
        meant_for_prompts = {
            "suite": self.suite,
            "is_harmful": self.is_harmful,
            "dimension": self.dimension,
            "category": self.category,
        }
        given = [name for name, value in meant_for_prompts.items() if value is not None]
        if self.adapter in ANSWER_ADAPTERS and given:
            raise ValueError(
                f"{', '.join(given)}: adapter {self.adapter!r} reads labelled answers, which are "
                "neither prompts nor pairs; remove it"
            )
        return self

    @model_validator(mode="after")
    def _fields_are_generic(self) -> Self:
        allowed = GENERIC_FIELDS.get(self.adapter, ())
        if unknown := sorted(set(self.fields) - set(allowed)):
            can = f"can map {', '.join(allowed)}" if allowed else "maps no fields"
            raise ValueError(f"fields {unknown}: adapter {self.adapter!r} {can}")
        return self


class ImportDataConfig(StageConfig):
    """What import_data reads, in order: the first source to bring a prompt names it."""

    sources: tuple[Source, ...]
    """The sources; their order decides the order of the rows."""
    max_quarantined_share: float = Field(default=0.5, ge=0, le=1)
    """A source with a greater share of unusable rows stops the stage: its layout is another one
    than its adapter's, or has changed. 1 never stops."""

    @model_validator(mode="after")
    def _sources_are_told_apart(self) -> Self:
        if not self.sources:
            raise ValueError("sources: give at least one source")
        names = [source.name for source in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"sources need different names; {twice} appear more than once")
        return self
