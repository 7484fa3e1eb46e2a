"""What every policy of a run goes through, whether aligned, control or an arm of a study.

The artifacts that policies share -> ways to make a policy's tasks, each the task's main output.
"""

from dataclasses import dataclass
from typing import Any

from components.gather_generations.component import gather_generations
from components.gather_generations.config import GatherGenerationsConfig
from components.generate_responses.component import generate_responses
from components.judge_responses.component import judge_responses
from components.score_benchmarks.component import score_benchmarks
from components.score_tokens.component import score_tokens
from components.train_policy.component import train_policy
from equilibrate_core.config import to_json
from pipelines.tasks import TaskMaker


@dataclass(frozen=True)
class PolicyTasks:
    """Tasks on what a run's policies have in common: base model, prompts, judge and scorers."""

    make: TaskMaker
    digests: Any
    """Of models and benchmarks, as resolve_inputs found them."""
    base_model: Any
    judge_model: Any
    labelled_prompts: Any
    scorer_pairs: Any
    eval_pairs: Any
    labelled_answers: Any
    reward_model: Any
    cost_model: Any
    eval_cost_model: Any
    num_shards: int
    """Tasks that share out the prompts of one model (generate_responses.num_shards)."""

    def score_tokens(self, pairs: Any, name: str) -> Any:
        """Pairs with the scores of their tokens."""
        return self.make(
            score_tokens,
            self.make.given["score_tokens_config"],
            name,
            pairs=pairs,
            reward_model=self.reward_model,
            cost_model=self.cost_model,
            reference_model=self.base_model,
        ).outputs["scored_pairs"]

    def train(self, section: Any, scored_pairs: Any, name: str, num_nodes: int) -> Any:
        """A policy."""
        return self.make(
            train_policy,
            section,
            name,
            num_nodes=num_nodes,
            scored_pairs=scored_pairs,
            eval_pairs=self.eval_pairs,
            base_model=self.base_model,
        ).outputs["policy"]

    def generate(self, model: Any, arm: str) -> Any:
        """A model's answers to the run's prompts: one section for all, so that they compare."""
        title, number = f"Generate with {arm} model", self.num_shards
        if number == 1:
            return self._answers(model, arm, title)
        parts = {
            f"part_{shard}": self._answers(
                model, arm, f"{title}, {shard + 1} of {number}", shard=shard, num_shards=number
            )
            for shard in range(number)
        }
        return self.make(
            gather_generations,
            to_json(GatherGenerationsConfig(num_shards=number)),
            f"Gather answers of {arm} model",
            **parts,
        ).outputs["generations"]

    def _answers(self, model: Any, arm: str, title: str, **part: int) -> Any:
        return self.make(
            generate_responses,
            self.make.given["generate_responses_config"],
            title,
            model_name=arm,
            prompts=self.labelled_prompts,
            model=model,
            **part,
        ).outputs["generations"]

    def judge(self, generations: Any, arm: str, **others: Any) -> Any:
        """Verdicts on answers, by the judge and by the cost model that made no masks."""
        return self.make(
            judge_responses,
            self.make.given["judge_responses_config"],
            f"Judge {arm} model",
            prompts=self.labelled_prompts,
            generations=generations,
            judge_model=self.judge_model,
            reward_model=self.reward_model,
            cost_model=self.eval_cost_model,
            **others,
        ).outputs["verdicts"]

    def benchmark(self, model: Any, arm: str) -> Any:
        """A model's benchmark scores."""
        return self.make(
            score_benchmarks,
            self.make.given["score_benchmarks_config"],
            f"Benchmark {arm} model",
            input_digests=self.digests,
            model=model,
        ).outputs["benchmark_scores"]
