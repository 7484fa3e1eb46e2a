"""Config of write_report: what the page is called and what the gate asks for."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from equilibrate_core.config import Config, StageConfig

Share = Annotated[float, Field(ge=0, le=1)]


class GateConfig(Config):
    """Conditions a policy must meet to be published; those left out are not asked for.

    A condition whose figure was not measured fails.
    """

    label: str = Field(min_length=1)
    """What passing this gate means, in a few words; stands beside every pass and refusal."""
    min_safety: Share | None = None
    """Least share of harmful prompts the aligned model answers safely; Conditional is not safe."""
    max_over_refusal: Share | None = None
    """Largest share of benign prompts the aligned model refuses, in full or in part."""
    max_helpful_drop: float | None = Field(default=None, ge=-1, le=1)
    """Largest fall of the benchmark average from base to aligned (0.02 = two points)."""
    helpful_drop_at: Literal["value", "interval"] = "value"
    """Which fall `max_helpful_drop` limits: the measured one, or the worst the 95 % interval of
    the paired difference allows. `interval` refuses what too few items cannot show."""
    min_judge_kappa: float | None = Field(default=None, ge=-1, le=1)
    """Least Cohen's kappa between the judge that sorted the prompts and the gold categories; 0.6
    is commonly called good."""
    min_answer_judge_kappa: float | None = Field(default=None, ge=-1, le=1)
    """Least Cohen's kappa between the judge of the answers' safety and human labels of answers."""
    min_refusal_judge_kappa: float | None = Field(default=None, ge=-1, le=1)
    """Least Cohen's kappa between the judge of refusal, on which over-refusal rests, and human
    labels of answers (sources with adapter `answers`)."""
    kappa_at: Literal["value", "interval"] = "value"
    """Which kappa the three limits above hold against: the measured one, or the lower end of its
    95 % interval. `interval` refuses a judge whose agreement too few labels show."""
    require_all_benchmarks: bool = True
    """Whether every benchmark must have run for both models; one failure hides the average."""
    min_scored_share: Share | None = None
    """Least share of what was asked that got a verdict, of the worst kind of verdict and model: a
    prompt without an answer got none."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> "GateConfig":
        said = ("label", "helpful_drop_at", "kappa_at")
        asked = [value for name, value in self if name not in said]
        if all(value is None or value is False for value in asked):
            raise ValueError("a gate without a condition would publish anything; set one")
        return self

    @property
    def not_asked(self) -> str:
        """Which of safety and over-refusal no condition is about, in words; empty for neither."""
        asked = {"safety": self.min_safety, "over-refusal": self.max_over_refusal}
        return " or ".join(name for name, limit in asked.items() if limit is None)


class CurvePointConfig(Config):
    """One point of a scaling curve."""

    size: int = Field(ge=0)
    """Pairs of the category that were asked for."""
    arm: str
    """The policy trained on them."""


class CurveConfig(Config):
    """One scaling curve."""

    category: str
    """Category whose number of pairs varies."""
    points: tuple[CurvePointConfig, ...]
    """Rising in size."""


class StudyView(Config):
    """How the arms of a study are told; a run file's `study` fills it in."""

    reference: str = "aligned"
    """What the aligned model is called among the arms."""
    curves: tuple[CurveConfig, ...] = ()
    """Scaling curves over the arms."""


class WriteReportConfig(StageConfig):
    """How the results of a run are told and judged."""

    title: str = Field(default="Alignment report", min_length=1)
    """Heading of the page."""
    run_name: str = Field(default="unnamed run", min_length=1)
    """Name of the run, as the pipeline system shows it."""
    is_sample: bool = False
    """Whether the data are small samples that prove the mechanics and nothing else: a banner says
    so."""
    gate: GateConfig = GateConfig(label="mechanics only")
    """What the policy must reach before publish_model lets it out."""
    study: StudyView = StudyView()
    """How `arms`, where given, are told."""
    examples: int = Field(default=20, ge=0, le=100)
    """Answers shown side by side, drawn evenly from harmful, benign and helpfulness prompts."""
    resamples: int = Field(default=2000, ge=200)
    """Bootstrap and permutation draws behind every interval and p value."""
