"""Config of score_benchmarks, and the one table of what each benchmark is scored by."""

from typing import Literal, get_args

from pydantic import Field, model_validator

from equilibrate_core.config import Config, StageConfig

Benchmark = Literal[
    "ceval",
    "c3",
    "mmlu",
    "commonsenseqa",
    "race",
    "arc_challenge",
    "arc_easy",
    "bbh",
    "hellaswag",
    "winogrande",
    "gsm8k",
    "humaneval",
]
BENCHMARKS: tuple[Benchmark, ...] = get_args(Benchmark)
"""The twelve of the Equilibrate paper (arXiv 2502.11555), in its order."""
HUB = "hub"


class Scoring(Config):
    """How a benchmark is asked and scored."""

    num_fewshot: int
    """Worked examples in the prompt."""
    metric: str
    """Name the harness gives the metric."""
    filter: str = "none"
    """Name of the harness's answer extraction, for benchmarks where the model writes."""
    max_gen_tokens: int = 0
    """Longest answer in tokens, as the harness's own task has it; 0 where nothing is written."""


SCORING: dict[Benchmark, Scoring] = {
    "ceval": Scoring(num_fewshot=5, metric="acc"),
    "c3": Scoring(num_fewshot=0, metric="acc"),
    "mmlu": Scoring(num_fewshot=0, metric="acc"),
    "commonsenseqa": Scoring(num_fewshot=0, metric="acc"),
    "race": Scoring(num_fewshot=0, metric="acc"),
    "arc_challenge": Scoring(num_fewshot=0, metric="acc_norm"),
    "arc_easy": Scoring(num_fewshot=0, metric="acc_norm"),
    "bbh": Scoring(num_fewshot=3, metric="exact_match", filter="get-answer", max_gen_tokens=1024),
    "hellaswag": Scoring(num_fewshot=0, metric="acc_norm"),
    "winogrande": Scoring(num_fewshot=0, metric="acc"),
    "gsm8k": Scoring(
        num_fewshot=0, metric="exact_match", filter="flexible-extract", max_gen_tokens=256
    ),
    "humaneval": Scoring(num_fewshot=0, metric="pass@1", max_gen_tokens=1024),
}
"""The paper gives five shots for C-Eval and none for HumanEval and is silent on the others: they
run without shots, save BBH, whose three come with its chain-of-thought prompts. Metrics, prompts
and answer lengths are those of lm-evaluation-harness 0.4.13's own tasks. GSM8K takes the last
number written (flexible-extract): without shots no model knows the `#### N` form."""


class ScoreBenchmarksConfig(StageConfig):
    """Which benchmarks a model takes, on which data, how."""

    data_uri: str = Field(min_length=1)
    """Folder or s3:// prefix with one subfolder per benchmark (ceval/val/**.jsonl,
    c3/c3-{d,m}-{test,dev}.json, mmlu/{test,dev}/*.csv, race/test_{high,middle}.jsonl,
    arc/ARC-{Challenge,Easy}_{test,validation}.jsonl, bbh/bbh/*.json with bbh/cot-prompts/*.txt,
    {commonsenseqa,hellaswag,winogrande}/validation.jsonl, gsm8k/test.jsonl,
    humaneval/HumanEval.jsonl.gz, each gzipped or not); or `hub` for the harness's sources. A longer
    name is taken where one file alone has it, a file named train never."""
    benchmarks: tuple[Benchmark, ...] = Field(default=BENCHMARKS, min_length=1)
    """Benchmarks to run, each once; `average` is the mean over these."""
    items_are_samples: bool = False
    """The data is a made-up sample: scores show that the stage runs and measure nothing. Carried
    into the output, where the report shows it."""
    items_per_benchmark: int | None = Field(default=None, ge=1)
    """Items of each benchmark, spread evenly over its parts (57 subjects of MMLU, 27 tasks of BBH,
    …) and rounded up to whole ones, so 50 means 57 of MMLU and 54 of BBH: always the first rows of
    each part, hence the same for every model. None for all."""
    num_fewshot: dict[Benchmark, int] = Field(default={})
    """Overrides of the number of shots per benchmark. Without examples of its own (MMLU's dev
    rows, BBH's prompts) a benchmark's first rows of each part are its shots and are not scored."""
    backend: Literal["transformers", "vllm"] = "transformers"
    """What runs the model. vllm takes half a minute to start and is then several times as fast,
    on CPUs too; transformers runs wherever torch does."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """Accelerators that share one model (vllm)."""
    attempts: int = Field(default=2, ge=1)
    """Times a benchmark is tried whose failure may pass (a hub that refuses, an engine that died,
    memory that ran out): again after all others, with a freshly loaded model. What is wrong with
    the data or the sandbox fails at once. A larger number makes this stage run again."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the weights in memory; `auto` is bfloat16 where the hardware computes in it."""
    batch_size: int = Field(default=8, ge=1)
    """Sequences per forward pass; vllm takes it as the most it runs at once."""
    max_length: int | None = Field(default=None, ge=64)
    """Tokens of prompt and answer; longer prompts lose their beginning and are counted in
    `num_truncated`. None for the model's own maximum."""
    max_gen_tokens: int = Field(default=1024, ge=1)
    """Cap on what a model may write on BBH and HumanEval (1024 in the harness) and GSM8K (256);
    below these the report warns. Answers that reach it are counted in `num_cut`."""
    apply_chat_template: bool = False
    """Ask through the model's chat template; the harness's published figures are without it."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of an accelerator's memory that vllm takes (its own default)."""
    cpu_kv_cache_gib: int = Field(default=2, ge=1)
    """GiB of main memory for vllm's key-value cache on CPUs."""
    program_cpu_s: float = Field(default=5.0, gt=0, le=120)
    """Processor seconds a HumanEval program may use before it counts as failed (3 s on the clock
    in the original; processor time does not depend on what else the machine does)."""
    program_memory_mb: int = Field(default=1024, ge=128)
    """Address space in MiB a HumanEval program may use."""

    @model_validator(mode="after")
    def _consistent(self) -> "ScoreBenchmarksConfig":
        if len(set(self.benchmarks)) != len(self.benchmarks):
            raise ValueError("benchmarks: each may be named once")
        negative = [name for name, number in self.num_fewshot.items() if number < 0]
        if negative:
            raise ValueError(f"num_fewshot: must not be negative: {', '.join(negative)}")
        if self.num_fewshot.get("bbh", 0) > 3:
            raise ValueError("num_fewshot: bbh has three worked examples")
        if self.num_fewshot.get("humaneval", 0) > 0:
            raise ValueError("num_fewshot: humaneval has no worked examples")
        if self.tensor_parallel_size > 1 and self.backend != "vllm":
            raise ValueError(
                f"tensor_parallel_size: {self.backend} runs on one accelerator; set backend: vllm"
            )
        return self

    def shots(self, benchmark: Benchmark) -> int:
        """Number of worked examples a benchmark's prompts get."""
        return self.num_fewshot.get(benchmark, SCORING[benchmark].num_fewshot)

    def answer_tokens(self, benchmark: Benchmark) -> int:
        """Longest answer of a benchmark in tokens; 0 where nothing is written."""
        return min(SCORING[benchmark].max_gen_tokens, self.max_gen_tokens)
