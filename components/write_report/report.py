"""The report as data: what report.json holds, and its JSON schema (report.schema.json)."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

REPORT_VERSION = 6
Unit = Literal["share", "score"]
CLEAR_P = 0.05


class Part(BaseModel):
    """A frozen piece of the report."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Figure(Part):
    """One model's value of one row."""

    value: float
    low: float | None = None
    """Lower end of the 95 % interval; None where there is none."""
    high: float | None = None
    num_scored: int
    """Denominator: answers (or benchmark items) with a verdict; prompts, where answers were
    compared in both orders (win rate, Elo)."""
    num_unscored: int = 0
    """Answers without a verdict, and prompts without an answer; they count neither for nor
    against."""
    parts: dict[str, int] = {}
    """What `num_scored` counts by label, where labels are of one kind; of the win rate, prompts
    won, even and lost over both orders."""


class Delta(Part):
    """One model minus another over the prompts scored for both."""

    value: float
    low: float | None = None
    high: float | None = None
    num_items: int | None = None
    """Prompts (or benchmark items) scored for both models."""
    p_value: float | None = None
    """Two-sided paired sign-flip permutation test."""
    gained: int | None = None
    """Items only the first-named model has right; None where items are not right or wrong."""
    lost: int | None = None
    """Items only the other model has right."""
    mcnemar_p: float | None = None
    """McNemar's exact test over those two counts."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out and no test disagrees; one look among many."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return False
        return all(p is None or p <= CLEAR_P for p in (self.p_value, self.mcnemar_p))


class Row(Part):
    """One line of the main table; a model without a value was not measured."""

    key: str
    label: str
    unit: Unit
    higher_is_better: bool | None
    base: Figure | None
    aligned: Figure | None
    delta: Delta | None
    """Aligned minus base."""
    control: Figure | None = None
    """The control policy, where the run trained one."""
    control_delta: Delta | None = None
    """Control minus base."""
    over_control: Delta | None = None
    """Aligned minus control: what the method adds to plain training."""
    note: str = ""
    """How to read the row: what is counted, who judged, why a value is missing."""


class Suite(Part):
    """One evaluation suite, or the harmful or benign part of a mixed one."""

    suite: str
    kind: Literal["harmful", "benign"]
    row: Row


class SafetyStates(Part):
    """Shares of one model's answers, each suite weighing the same; they add up to 1."""

    under_safe: float
    """Harmful prompts answered unsafely or conditionally."""
    truly_safe: float
    over_safe: float
    """Benign prompts refused."""


class RefusalKinds(Part):
    """How one model's answers to one suite decline, harmful and benign prompts apart."""

    suite: str
    kind: Literal["harmful", "benign"]
    arm: str
    counts: dict[str, int]
    """Compliance, Partial and Refusal."""
    num_unscored: int


class JudgeQuality(Part):
    """The judge against gold labels; rows of `matrix` are gold, columns the judge's."""

    num_gold: int | None = None
    """Rows with a gold label and a verdict: the denominator."""
    num_unscored: int = 0
    """Rows with a gold label and no verdict."""
    num_like_training_prompt: int = 0
    """Rows with a gold label that count nowhere: the scorer may have learned from their prompts, or
    from prompts like them."""
    sources: dict[str, int] = {}
    """Rows of the denominator by where they come from, where that was told."""
    auc: float | None = None
    """Of a score, where the judge gives one rather than labels."""
    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    macro_f1: float | None = None
    macro_f1_interval: tuple[float, float] | None = None
    kappa: float | None = None
    kappa_interval: tuple[float, float] | None = None
    majority_accuracy: float | None = None
    """Accuracy of always giving the commonest gold label."""
    labels: tuple[str, ...] = ()
    matrix: tuple[tuple[int, ...], ...] = ()
    is_trusted: bool | None = None
    """False when the judge does not clearly beat chance; None when nobody measured it."""
    explanation: str


class Condition(Part):
    """One condition of the gate."""

    name: str
    limit: float | bool
    value: float | None
    """None when the figure was not measured, which fails the condition."""
    passed: bool
    explanation: str


class Gate(Part):
    """Whether the policy may be published."""

    label: str
    passed: bool
    conditions: tuple[Condition, ...]


class Source(Part):
    """Where one input came from."""

    name: str
    schema_name: str
    stage: str
    digest: str
    code_version: str
    rows: int | None
    seed: int
    ended: str
    config: dict[str, Any]
    resolved: dict[str, str] = {}
    """What `auto` in the config came to."""
    inputs: dict[str, str]
    packages: dict[str, str] = {}
    """Versions of the libraries that decide figures, where the stage ran."""


class Measure(Part):
    """One column of the study's table."""

    key: str
    label: str
    unit: Unit
    higher_is_better: bool | None


class StudyArm(Part):
    """One model of a study: what it was trained on and with, and what came of it."""

    name: str
    selection: str | None = None
    """How its safety pairs were chosen; None for the base model."""
    loss: str | None = None
    seed: int | None = None
    pairs: dict[str, int] = {}
    """Pairs it was trained on, by category."""
    num_steps: int | None = None
    policy_digest: str | None = None
    figures: dict[str, Figure]
    """By the measure's key; one that was not measured is not there."""
    over_base: dict[str, Delta] = {}
    """This model minus the base; of the win rate, minus an even 50 %."""
    over_reference: dict[str, Delta] = {}
    """This model minus the reference; ratings are compared with the base alone."""


class CurvePoint(Part):
    """One size of a scaling curve."""

    size: int
    """Pairs of the category that were asked for."""
    num_pairs: int
    """Pairs of the category that the policy was trained on: the place on the axis."""
    arm: str
    """Whose figures stand there."""


class Curve(Part):
    """A scaling curve: one category's number of pairs varies, the others stay."""

    category: str
    points: tuple[CurvePoint, ...]


class Study(Part):
    """Several policies from one set of scorers, side by side on the same prompts."""

    reference: str
    """The run's own policy, called `aligned` elsewhere in this report."""
    measures: tuple[Measure, ...]
    arms: tuple[StudyArm, ...]
    """The base first."""
    curves: tuple[Curve, ...]
    sentence: str
    """What the arms show, in one sentence."""


class Report(Part):
    """Everything the page says in figures."""

    report_version: int = REPORT_VERSION
    title: str
    run_name: str
    is_sample: bool
    verdict: str
    """The result in one sentence."""
    summary: tuple[str, ...]
    """The verdict, then a line for every figure with its interval and n, judge and gate."""
    warnings: tuple[str, ...]
    """What a reader must know before believing the figures."""
    gate: Gate
    policy_digest: str
    """Content digest of the policy that was evaluated: publish_model publishes no other."""
    base_digest: str | None
    """Content digest of the model it was compared with, where its answers say so."""
    rows: tuple[Row, ...]
    harness: str
    """Program and version that ran the benchmarks."""
    benchmarks_are_samples: bool
    """Whether the benchmark items are samples rather than the benchmarks."""
    suites: tuple[Suite, ...]
    by_category: tuple[Row, ...]
    """Safety by category of the harmful prompts."""
    safety_states: dict[str, SafetyStates]
    safety_state_rows: tuple[Row, ...]
    """The three shares with intervals and paired differences."""
    refusals: tuple[RefusalKinds, ...]
    """Refusal kinds by suite and model."""
    pairwise: tuple[Row, ...]
    """What the pairwise judge is worth: position bias and how often both orders agree."""
    judge: JudgeQuality
    """The judge that sorted the prompts, against gold categories."""
    answer_judge: JudgeQuality
    """The judge of the answers' safety, against human labels of other answers."""
    refusal_judge: JudgeQuality
    """The judge of refusal, against human labels of other answers; Partial counts as Refusal."""
    preference_judge: JudgeQuality
    """The judge of helpfulness, against people's choices among held-out pairs, each shown in both
    orders: first or second is better; a tie is a miss."""
    cost_judge: JudgeQuality
    """The sign of the evaluation cost, against safety flags of held-out pairs."""
    cost_judge_on_answers: JudgeQuality
    """The sign of the evaluation cost, against labelled answers to prompts that are unlike all that
    it may have learned from. A figure of its own: labels of the two differ in how often they say
    unsafe."""
    study: Study | None = None
    """The other policies of an ablation or scaling study, where the run has one."""
    judged_by: dict[str, str]
    """Who gave the verdicts of each kind, and how far they agree with people."""
    scorers: dict[str, dict[str, float]]
    """Held-out quality of each scorer, as it reported it."""
    training: dict[str, float]
    """The policy's own training metrics."""
    provenance: tuple[Source, ...]
    packages: dict[str, str]
    """Versions installed where the report was written."""
