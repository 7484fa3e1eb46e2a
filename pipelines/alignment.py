"""The pipeline: what feeds what, wired once for laptop and cluster.

A RunConfig -> a `@dsl.pipeline` whose parameters are the config's sections as JSON, so that the
Kubeflow UI can edit them and an edited section re-runs its stage and what depends on it.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from kfp import dsl

from components.assemble_dataset.component import assemble_dataset
from components.build_pairs.component import build_pairs
from components.classify_prompts.component import classify_prompts
from components.import_data.component import import_data
from components.import_model.component import import_model
from components.publish_model.component import publish_model
from components.record_run.component import record_run
from components.resolve_inputs.component import resolve_inputs
from components.resolve_inputs.config import CHANGED
from components.train_scorer.component import train_scorer
from components.write_report.component import write_report
from equilibrate_core.config import to_json
from pipelines.arms import gathered_arms
from pipelines.kubeflow_config import POOLS, StageName
from pipelines.placement import node_inputs, placement_defaults, placer, with_parameters
from pipelines.policy_tasks import PolicyTasks
from pipelines.run_config import RunConfig
from pipelines.sections import compiled_in, sections
from pipelines.tasks import TaskMaker

RUN_ID = dsl.PIPELINE_JOB_ID_PLACEHOLDER
CREATED = dsl.PIPELINE_JOB_CREATE_TIME_UTC_PLACEHOLDER
IMAGES = ("cpu_image", "train_image", "vllm_image")
"""On a cluster they decide about the versions of libraries: another one is news."""
NOT_COMPARED = ("resolve_inputs_config", "record_run_config")
"""Sections in which a run may differ from the last one and be the same run all the same."""


def used_stages(config: RunConfig) -> list[StageName]:
    """Stages that a run has: some are there only when their section asks for them."""
    absent = {
        "build_pairs": config.build_pairs is None,
        "gather_arms": config.study is None,
        "gather_generations": config.generate_responses.num_shards == 1,
    }
    return [stage for stage in POOLS if not absent.get(stage, False)]


def alignment_pipeline(config: RunConfig, *, cluster: bool = False) -> Any:
    """Build the pipeline of a run; its defaults are the run's sections.

    For a cluster it also has parameters for images, resources and placement.
    """
    fixed = compiled_in(config)
    given = {n: s for n, s in sections(config, cluster=cluster).items() if n not in fixed}
    stages = used_stages(config)
    placement = placement_defaults(config.kubeflow, stages) if cluster else {}
    ttl = dsl.PipelineConfig(ttl_seconds_after_finished=config.kubeflow.ttl_s)
    started = CREATED if cluster else datetime.now(UTC).isoformat()

    @dsl.pipeline(
        name=config.name,
        description=config.description or "Align a language model.",
        pipeline_config=ttl if cluster else None,
    )
    @with_parameters(given | placement)
    def alignment(*values: Any):
        inputs = dict(zip(given | placement, values, strict=True))
        channels = {name: inputs.pop(name) for name in placement}
        make = TaskMaker(
            given=inputs | fixed,
            place=placer(config.kubeflow, channels),
            node_inputs=node_inputs(config.kubeflow, channels),
            cache_epoch=config.kubeflow.cache_epoch if cluster else 0,
            sees_packages=not cluster,
        )
        end = record_run(config=inputs["record_run_config"], run_id=RUN_ID, started=started)
        with ExitStack() as groups:
            groups.enter_context(
                dsl.ExitHandler(make.place(end, "Record run", cached=False), name="Alignment")
            )
            images = {name: channels[name] for name in IMAGES if name in channels}
            resolved = _resolved(config, make, stages, inputs | images, fixed)
            if config.resolve_inputs.skip_unchanged:
                changed = resolved.outputs["Output"] == CHANGED
                groups.enter_context(dsl.If(changed, name="If changed"))
            _wire(config, make, resolved.outputs["sources"], resolved.outputs["others"])

    return alignment


def _resolved(
    config: RunConfig,
    make: TaskMaker,
    stages: list[StageName],
    inputs: Mapping[str, Any],
    fixed: Mapping[str, str],
) -> Any:
    """The task that looks at every input, and at what else makes a run new."""
    settings, compared = "", {}
    if config.resolve_inputs.skip_unchanged:
        codes = [make.code_of(stage) for stage in sorted(stages)]
        shape = [to_json(config.study)] if config.study is not None else []
        settings = "\n".join([*codes, *shape, *fixed.values()])
        # Each as an input of its own: Kubeflow puts a parameter into the middle of a text as it
        # is, and the quotes of a section would end the text there.
        compared = {name: text for name, text in inputs.items() if name not in NOT_COMPARED}
    return make(
        resolve_inputs,
        inputs["resolve_inputs_config"],
        "Resolve inputs",
        cached=False,
        run_id=RUN_ID,
        settings=settings,
        **compared,
    )


def _wire(config: RunConfig, make: TaskMaker, sources: Any, others: Any) -> None:
    """Everything between the resolved inputs (of data, and all others) and the published model."""
    given, plan = make.given, config.plan
    data = make(
        import_data, given["import_data_config"], "Import data", input_digests=sources
    ).outputs
    base, judge = _models(config, make, others)
    labelled = make(
        classify_prompts,
        given["classify_prompts_config"],
        "Classify prompts",
        prompts=data["prompts"],
        judge_model=judge,
    ).outputs["labelled_prompts"]

    def assembled(section: str, name: str) -> Any:
        return make(
            assemble_dataset,
            given[section],
            name,
            input_digests=others,
            labelled_prompts=labelled,
            pairs=data["pairs"],
        )

    dataset = assembled("assemble_dataset_config", "Assemble dataset")
    new_datasets = {
        arm.data: assembled(f"arm_{arm.slug}_assemble_config", f"Assemble dataset, {arm.name}")
        for arm in (plan.new_data if plan else ())
    }
    # A size that the data cannot fill must show before anything is trained.
    scorers = _scorers(config, make, dataset, base, after=[*new_datasets.values()])
    tasks = PolicyTasks(
        make,
        digests=others,
        base_model=base,
        judge_model=judge,
        labelled_prompts=labelled,
        scorer_pairs=dataset.outputs["scorer_pairs"],
        eval_pairs=dataset.outputs["eval_pairs"],
        labelled_answers=data["labelled_answers"],
        num_shards=config.generate_responses.num_shards,
        **scorers,
    )
    train_pairs = _train_pairs(config, tasks, dataset.outputs["train_pairs"])
    scored = tasks.score_tokens(train_pairs, "Score tokens")
    policy = tasks.train(
        given["train_policy_config"], scored, "Train policy", config.train_policy.num_nodes
    )
    results = _results(config, tasks, scored, policy)
    if plan is not None and config.study is not None:
        results["arms"] = gathered_arms(
            plan,
            tasks,
            num_nodes=config.train_policy.num_nodes,
            with_benchmarks=config.study.benchmarks,
            own_data=(train_pairs, scored),
            datasets={d: task.outputs["train_pairs"] for d, task in new_datasets.items()},
            base_generations=results["base_generations"],
        )
    report = make(
        write_report,
        given["write_report_config"],
        "Write report",
        labelled_prompts=labelled,
        train_pairs=train_pairs,
        scored_pairs=scored,
        policy=policy,
        **scorers,
        **results,
    ).outputs["report"]
    make(
        publish_model,
        given["publish_model_config"],
        "Publish model",
        cached=False,
        policy=policy,
        report=report,
    )


def _models(config: RunConfig, make: TaskMaker, digests: Any) -> tuple[Any, Any]:
    """The model to align, and the judge."""

    def imported(section: str, name: str) -> Any:
        task = make(import_model, make.given[section], name, input_digests=digests)
        return task.outputs["base_model"]

    base = imported("import_model_config", "Import base model")
    if config.judge_model is None:
        return base, base
    return base, imported("judge_model_config", "Import judge model")


def _train_pairs(config: RunConfig, tasks: PolicyTasks, assembled: Any) -> Any:
    """The assembled pairs, with those built from the base model's own answers if asked for."""
    if config.build_pairs is None:
        return assembled
    return tasks.make(
        build_pairs,
        tasks.make.given["build_pairs_config"],
        "Build pairs",
        labelled_prompts=tasks.labelled_prompts,
        base_model=tasks.base_model,
        reward_model=tasks.reward_model,
        cost_model=tasks.cost_model,
        train_pairs=assembled,
    ).outputs["pairs"]


def _scorers(
    config: RunConfig, make: TaskMaker, dataset: Any, base_model: Any, *, after: list[Any]
) -> dict[str, Any]:
    """The reward model and both cost models, by the names of the inputs that take them."""
    names = {
        "reward_model": ("Train reward model", config.train_scorer.reward.num_nodes),
        "cost_model": ("Train cost model", config.train_scorer.cost.num_nodes),
        "eval_cost_model": ("Train evaluation cost model", config.train_scorer.eval_cost.num_nodes),
    }
    scorers: dict[str, Any] = {}
    for scorer, (name, num_nodes) in names.items():
        task = make(
            train_scorer,
            make.given[f"{scorer}_config"],
            name,
            num_nodes=num_nodes,
            pairs=dataset.outputs["scorer_pairs"],
            base_model=base_model,
        )
        scorers[scorer] = task.after(*after).outputs["scorer"]
    return scorers


def _results(config: RunConfig, tasks: PolicyTasks, scored: Any, policy: Any) -> dict[str, Any]:
    """Answers, verdicts and benchmarks of base, aligned and control, as the report takes them."""
    given, base = tasks.make.given, tasks.base_model
    base_answers = tasks.generate(base, "base")
    aligned_answers = tasks.generate(policy, "aligned")
    against_base = {"other_generations": base_answers}
    labelled = {
        "labelled_pairs": tasks.eval_pairs,
        "labelled_answers": tasks.labelled_answers,
        "scorer_pairs": tasks.scorer_pairs,
    }
    # Before those of other models: kfp numbers tasks, and its cache knows them by name.
    results = {
        "base_generations": base_answers,
        "aligned_generations": aligned_answers,
        "base_verdicts": tasks.judge(base_answers, "base", **labelled),
        "aligned_verdicts": tasks.judge(aligned_answers, "aligned", **against_base),
        "base_benchmarks": tasks.benchmark(base, "base"),
        "aligned_benchmarks": tasks.benchmark(policy, "aligned"),
    }
    if config.train_control is None:
        return results
    control = tasks.train(
        given["train_control_config"],
        scored,
        "Train control policy",
        config.train_control.num_nodes,
    )
    answers = tasks.generate(control, "control")
    return results | {
        "control_policy": control,
        "control_generations": answers,
        "control_verdicts": tasks.judge(answers, "control", **against_base),
        "control_benchmarks": tasks.benchmark(control, "control"),
    }
