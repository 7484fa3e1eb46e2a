"""A run: one YAML file with one section per stage."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from components.assemble_dataset.config import AssembleDatasetConfig
from components.build_pairs.config import BuildPairsConfig
from components.classify_prompts.config import ClassifyPromptsConfig
from components.generate_responses.config import GenerateResponsesConfig
from components.import_data.config import ImportDataConfig
from components.import_model.config import ImportModelConfig
from components.judge_responses.config import JudgeResponsesConfig
from components.publish_model.config import PublishModelConfig
from components.record_run.config import RecordRunConfig
from components.resolve_inputs.config import ResolveInputsConfig
from components.score_benchmarks.config import HUB, ScoreBenchmarksConfig
from components.score_tokens.config import ScoreTokensConfig
from components.train_policy.config import TrainPolicyConfig
from components.train_scorer.config import TrainScorerConfig
from components.write_report.config import WriteReportConfig
from equilibrate_core.config import Config, load_config
from equilibrate_core.generator_config import GeneratorConfig
from equilibrate_core.training_config import TrainingStageConfig
from pipelines.kubeflow_config import KubeflowConfig, StageName
from pipelines.study import Plan, plan_study
from pipelines.study_config import StudyConfig


class Scorers(Config):
    """The three trainings of train_scorer."""

    reward: TrainScorerConfig = TrainScorerConfig(kind="reward")
    """Learns helpfulness from helpful pairs."""
    cost: TrainScorerConfig = TrainScorerConfig(kind="cost", rows="first_half")
    """Learns harm from harmless pairs; makes the masks."""
    eval_cost: TrainScorerConfig = TrainScorerConfig(kind="cost", rows="second_half", seed=1)
    """Learns harm from other rows than `cost`; only judges the result."""

    @model_validator(mode="after")
    def _kinds(self) -> Self:
        if (self.reward.kind, self.cost.kind, self.eval_cost.kind) != ("reward", "cost", "cost"):
            raise ValueError("reward needs kind: reward; cost and eval_cost need kind: cost")
        if {self.cost.rows, self.eval_cost.rows} != {"first_half", "second_half"}:
            raise ValueError(
                "cost and eval_cost need different halves (rows: first_half / second_half): the "
                "model that made the masks must not judge the result"
            )
        return self


class LocalConfig(Config):
    """What `equilibrate run` starts and prepares on this machine."""

    object_store: bool = False
    """Start a SeaweedFS server on loopback for the length of the run."""
    upload: dict[str, str] = Field(default={})
    """Folders to copy into the object store before the run: s3:// prefix → folder. The name
    `sample` stands for the sample data of the package."""


class RunConfig(Config):
    """One run of the alignment pipeline."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    """Name of the run, of its folder and of its Kubeflow pipeline."""
    description: str = ""
    """One sentence for the Kubeflow UI."""
    resolve_inputs: ResolveInputsConfig = ResolveInputsConfig()
    """What decides whether there is anything new; sources and models are filled in."""
    import_data: ImportDataConfig
    """Sources of prompts and pairs."""
    import_model: ImportModelConfig
    """The base model to align."""
    judge_model: ImportModelConfig | None = None
    """Model of an in-process judge; None takes the base model. An endpoint judge ignores it."""
    classify_prompts: ClassifyPromptsConfig = ClassifyPromptsConfig()
    """The LLM judge's sorting into EHD, IHD, MHD and NONE."""
    assemble_dataset: AssembleDatasetConfig = AssembleDatasetConfig()
    """FDC quotas, mix and splits."""
    train_scorer: Scorers = Scorers()
    """Reward and cost models."""
    build_pairs: BuildPairsConfig | None = None
    """Pairs from the base model's own answers to prompts without any; None builds none."""
    score_tokens: ScoreTokensConfig = ScoreTokensConfig()
    """Per-token rewards, costs and reference log-probs."""
    train_policy: TrainPolicyConfig = TrainPolicyConfig()
    """ADPO and its controls."""
    train_control: TrainPolicyConfig | None = None
    """A second policy on the same pairs (`loss: dpo` or `random_mask`), the report's control
    column; None trains none."""
    study: StudyConfig | None = None
    """Other policies to train, judge and report beside this one: an ablation, a scaling study."""
    generate_responses: GenerateResponsesConfig = GenerateResponsesConfig()
    """Answers of base and aligned model."""
    judge_responses: JudgeResponsesConfig = JudgeResponsesConfig()
    """Verdicts on those answers."""
    score_benchmarks: ScoreBenchmarksConfig
    """The twelve benchmarks."""
    write_report: WriteReportConfig = WriteReportConfig()
    """Report and gate."""
    publish_model: PublishModelConfig
    """Where a model that passed the gate goes."""
    record_run: RecordRunConfig
    """Where the end of every run is recorded, whatever it was."""
    local: LocalConfig = LocalConfig()
    """Only for `equilibrate run`."""
    kubeflow: KubeflowConfig = KubeflowConfig()
    """Only for a cluster."""

    @property
    def plan(self) -> Plan | None:
        """What the study trains beside the run's own policy."""
        if self.study is None:
            return None
        return plan_study(self.study, self.assembly, self.train_policy)

    @property
    def judges(self) -> list[tuple[str, GeneratorConfig]]:
        """Every judge and where the run file has it."""
        sorting = self.classify_prompts
        others = [("classify_prompts.other_judges", judge) for judge in sorting.other_judges]
        own = [("classify_prompts.judge", sorting.judge), *others]
        return [*own, ("judge_responses.judge", self.judge_responses.judge)]

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Every variable that must hold a key, and where the run file names it."""
        found = [(f"{where}.api_key_env", judge.api_key_env) for where, judge in self.judges]
        if (registry := self.publish_model.model_registry) is not None:
            found.append(("publish_model.model_registry.token_env", registry.token_env))
        return [(where, variable) for where, variable in found if variable]

    @property
    def assembly(self) -> AssembleDatasetConfig:
        """The section, its decontamination told where the run's benchmarks are."""
        section, uri = self.assemble_dataset, self.score_benchmarks.data_uri
        if section.benchmarks_uri or uri == HUB:
            return section
        return section.model_copy(update={"benchmarks_uri": uri})

    @property
    def max_nodes(self) -> int:
        """Nodes of the widest training; more than one need a cluster."""
        trainings = [*vars(self.train_scorer).values(), self.train_policy, self.train_control]
        return max(training.num_nodes for training in trainings if training is not None)

    @property
    def unmatched_processes(self) -> list[str]:
        """One line for every training whose processes a cluster would not give one GPU each.

        No mistake in itself: accelerators are a pipeline's parameters, and a laptop ignores them.
        """
        trainings: list[tuple[StageName, str, TrainingStageConfig | None]] = [
            *(("train_scorer", f"train_scorer.{n}", t) for n, t in vars(self.train_scorer).items()),
            ("train_policy", "train_policy", self.train_policy),
            ("train_policy", "train_control", self.train_control),
        ]
        lines: list[str] = []
        for stage, name, training in trainings:
            found = self.kubeflow.resources(stage).accelerators
            if training is not None and found not in (0, training.num_processes):
                lines.append(
                    f"{name}.num_processes: {training.num_processes}, but its task on a cluster "
                    f"has accelerators: {found}, and a process uses one; make them equal here or "
                    f"in kubeflow: {{stages: {{{stage}: {{accelerators: …}}}}}}"
                )
        return lines

    @model_validator(mode="after")
    def _study_is_sound(self) -> Self:
        if self.study is not None and self.build_pairs is not None:
            raise ValueError(
                "study and build_pairs: built pairs come on top of every arm's quotas, so no arm "
                "would have the size it is named after; remove one of the two sections"
            )
        _ = self.plan
        return self

    @model_validator(mode="after")
    def _shards_are_the_pipelines(self) -> Self:
        if self.generate_responses.shard:
            raise ValueError(
                "generate_responses.shard: the pipeline gives every task its own; remove the field"
            )
        return self

    @model_validator(mode="after")
    def _precisions_agree(self) -> Self:
        policies = {"train_policy": self.train_policy, "train_control": self.train_control}
        for name, policy in policies.items():
            if policy and self.score_tokens.precision != policy.training.precision:
                raise ValueError(
                    f"score_tokens.precision and {name}.training.precision differ: cached "
                    "reference log-probs would not match the policy's at step 0"
                )
        return self

    @model_validator(mode="after")
    def _scores_suffice_for_masks(self) -> Self:
        scores = self.score_tokens
        policies = {"train_policy": self.train_policy, "train_control": self.train_control}
        for name, policy in policies.items():
            if policy is None or policy.loss == "dpo":
                continue
            if policy.ama.score == "combined" and scores.rewards != "all_pairs":
                raise ValueError(
                    f"{name}.ama.score: combined needs the rewards of all pairs; set "
                    "score_tokens.rewards: all_pairs"
                )
            if policy.ama.baseline == "response_mean" and scores.segment == "response":
                raise ValueError(
                    f"{name}.ama.baseline response_mean with score_tokens.segment response "
                    "compares a number with itself; change one of them"
                )
        return self


RunnerName = Literal["subprocess", "docker"]


def load_run(path: Path) -> RunConfig:
    """Read a run file. Raises ConfigError with one line per mistake."""
    return load_config(str(path), RunConfig)
