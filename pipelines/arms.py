"""The arms of a study: every other policy's tasks, unrolled when the pipeline is built.

A plan and the pipeline's own ways to make a task -> the artifact with all arms.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from components.gather_arms.component import gather_arms
from components.gather_arms.config import GatherArmsConfig
from equilibrate_core.config import to_json
from equilibrate_core.digests import code_digest
from pipelines.placement import Place
from pipelines.study import Plan


@dataclass(frozen=True)
class ArmTasks:
    """How the pipeline makes the tasks of any policy; all return the task's main output."""

    score_tokens: Callable[..., Any]
    train_policy: Callable[..., Any]
    generate: Callable[..., Any]
    judge: Callable[..., Any]
    benchmark: Callable[..., Any] | None
    """None leaves the arms' benchmarks out."""


def gathered_arms(
    plan: Plan,
    tasks: ArmTasks,
    *,
    sections: Mapping[str, Any],
    place: Place,
    own_data: tuple[Any, Any],
    datasets: Mapping[str, Any],
) -> Any:
    """The last gathering's output, which holds all arms.

    `sections` are the arms' parameters; `own_data` the run's own train_pairs and scored_pairs;
    `datasets` the train_pairs of every other dataset. Arms with equal data share its tasks.
    """
    data = {plan.own.data: own_data}
    gathered: Any = None
    for arm in plan.arms:
        if arm.data not in data:
            pairs = datasets[arm.data]
            data[arm.data] = pairs, tasks.score_tokens(pairs, f"Score tokens, {arm.name}")
        pairs, scored = data[arm.data]
        section = sections[f"arm_{arm.slug}_train_config"]
        policy = tasks.train_policy(section, scored, f"Train policy {arm.name}")
        section = sections[f"arm_{arm.slug}_generate_config"]
        answers = tasks.generate(section, policy, arm.name)
        optional = {} if gathered is None else {"earlier_arms": gathered}
        if tasks.benchmark is not None:
            optional["benchmarks"] = tasks.benchmark(policy, arm.name)
        gathered = place(
            gather_arms(
                config=to_json(GatherArmsConfig(name=arm.name)),
                code_digest=code_digest("gather_arms"),
                train_pairs=pairs,
                scored_pairs=scored,
                policy=policy,
                generations=answers,
                verdicts=tasks.judge(answers, arm.name),
                **optional,
            ),
            f"Gather arm {arm.name}",
        ).outputs["arms"]
    return gathered
