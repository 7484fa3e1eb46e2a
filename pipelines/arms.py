"""The arms of a study: every other policy's tasks, unrolled when the pipeline is built.

A study's plan and the tasks that any policy goes through -> the artifact with all arms.
"""

from collections.abc import Mapping
from typing import Any

from components.gather_arms.component import gather_arms
from components.gather_arms.config import GatherArmsConfig
from equilibrate_core.config import to_json
from pipelines.policy_tasks import PolicyTasks
from pipelines.study import Plan


def gathered_arms(
    plan: Plan,
    tasks: PolicyTasks,
    *,
    num_nodes: int,
    with_benchmarks: bool,
    own_data: tuple[Any, Any],
    datasets: Mapping[str, Any],
    base_generations: Any,
) -> Any:
    """The last gathering's output, which holds all arms.

    `own_data` are the run's own train_pairs and scored_pairs; `datasets` the train_pairs of every
    other dataset. Arms with equal data share its tasks.
    """
    given = tasks.make.given
    data = {plan.own.data: own_data}
    gathered: Any = None
    for arm in plan.arms:
        if arm.data not in data:
            pairs = datasets[arm.data]
            data[arm.data] = pairs, tasks.score_tokens(pairs, f"Score tokens, {arm.name}")
        pairs, scored = data[arm.data]
        policy = tasks.train(
            given[f"arm_{arm.slug}_train_config"],
            scored,
            f"Train policy {arm.name}",
            num_nodes,
        )
        answers = tasks.generate(policy, arm.name)
        optional = {} if gathered is None else {"earlier_arms": gathered}
        if with_benchmarks:
            optional["benchmarks"] = tasks.benchmark(policy, arm.name)
        gathered = tasks.make(
            gather_arms,
            to_json(GatherArmsConfig(name=arm.name)),
            f"Gather arm {arm.name}",
            train_pairs=pairs,
            scored_pairs=scored,
            policy=policy,
            generations=answers,
            verdicts=tasks.judge(answers, arm.name, other_generations=base_generations),
            **optional,
        ).outputs["arms"]
    return gathered
