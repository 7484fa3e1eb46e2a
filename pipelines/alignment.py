"""The pipeline: what feeds what, wired once for laptop and cluster.

A RunConfig -> a `@dsl.pipeline` whose parameters are the config's sections as JSON, so that the
Kubeflow UI can edit them and an edited section re-runs its stage and what depends on it.
"""

# kfp reads real annotations: no `from __future__ import annotations` here.
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from kfp import dsl

from components.assemble_dataset.component import assemble_dataset
from components.build_pairs.component import build_pairs
from components.classify_prompts.component import classify_prompts
from components.generate_responses.component import generate_responses
from components.import_data.component import import_data
from components.import_model.component import import_model
from components.judge_responses.component import judge_responses
from components.publish_model.component import publish_model
from components.record_run.component import record_run
from components.resolve_inputs.component import resolve_inputs
from components.resolve_inputs.config import CHANGED
from components.score_benchmarks.component import score_benchmarks
from components.score_tokens.component import score_tokens
from components.train_policy.component import train_policy
from components.train_scorer.component import train_scorer
from components.write_report.component import write_report
from equilibrate_core.config import to_json
from equilibrate_core.digests import code_digest
from pipelines.arms import ArmTasks, gathered_arms
from pipelines.kubeflow_config import POOLS, StageName
from pipelines.placement import node_inputs, placement_defaults, placer, with_parameters
from pipelines.run_config import RunConfig
from pipelines.sections import compiled_in, optional_sections, sections

RUN_ID = dsl.PIPELINE_JOB_ID_PLACEHOLDER
CREATED = dsl.PIPELINE_JOB_CREATE_TIME_UTC_PLACEHOLDER


def used_stages(config: RunConfig) -> list[StageName]:
    """Stages that a run has: some are there only when their section is."""
    left_out = {"build_pairs": config.build_pairs, "gather_arms": config.study}
    return [stage for stage in POOLS if left_out.get(stage, config) is not None]


def alignment_pipeline(config: RunConfig, *, cluster: bool = False) -> Any:
    """Build the pipeline of a run; its defaults are the run's sections.

    For a cluster it also has parameters for images, resources and placement.
    """
    default = sections(config, cluster=cluster)
    optional = optional_sections(config)
    fixed = compiled_in(config)
    optional = {name: text for name, text in optional.items() if name not in fixed}
    stages = used_stages(config)
    placement = placement_defaults(config.kubeflow, stages) if cluster else {}
    ttl = dsl.PipelineConfig(ttl_seconds_after_finished=config.kubeflow.ttl_s)
    epoch = config.kubeflow.cache_epoch if cluster else 0

    def code_of(stage: str) -> str:
        return f"{code_digest(stage)}.{epoch}" if epoch else code_digest(stage)

    started = CREATED if cluster else datetime.now(UTC).isoformat()

    @dsl.pipeline(
        name=config.name,
        description=config.description or "Align a language model.",
        pipeline_config=ttl if cluster else None,
    )
    @with_parameters(optional | placement)
    def alignment(
        resolve_inputs_config: str = default["resolve_inputs_config"],
        import_data_config: str = default["import_data_config"],
        import_model_config: str = default["import_model_config"],
        judge_model_config: str = default["judge_model_config"],
        classify_prompts_config: str = default["classify_prompts_config"],
        assemble_dataset_config: str = default["assemble_dataset_config"],
        reward_model_config: str = default["reward_model_config"],
        cost_model_config: str = default["cost_model_config"],
        eval_cost_model_config: str = default["eval_cost_model_config"],
        score_tokens_config: str = default["score_tokens_config"],
        train_policy_config: str = default["train_policy_config"],
        generate_base_config: str = default["generate_base_config"],
        generate_aligned_config: str = default["generate_aligned_config"],
        judge_responses_config: str = default["judge_responses_config"],
        score_benchmarks_config: str = default["score_benchmarks_config"],
        write_report_config: str = default["write_report_config"],
        publish_model_config: str = default["publish_model_config"],
        record_run_config: str = default["record_run_config"],
        *others: Any,
    ):
        other = dict(zip(optional | placement, others, strict=True)) | fixed
        settings, compared = "", {}
        if config.resolve_inputs.skip_unchanged:  # what makes a run new beside its inputs
            codes = [code_of(stage) for stage in sorted(stages)]
            shape = [to_json(config.study)] if config.study is not None else []
            settings = "\n".join([*codes, *shape, *fixed.values()])
            # Each as an input of its own: Kubeflow puts a parameter into the middle of a text as it
            # is, and the quotes of a section would end the text there.
            compared = {
                "import_data_config": import_data_config,
                "import_model_config": import_model_config,
                "judge_model_config": judge_model_config,
                "classify_prompts_config": classify_prompts_config,
                "assemble_dataset_config": assemble_dataset_config,
                "reward_model_config": reward_model_config,
                "cost_model_config": cost_model_config,
                "eval_cost_model_config": eval_cost_model_config,
                "score_tokens_config": score_tokens_config,
                "train_policy_config": train_policy_config,
                "generate_base_config": generate_base_config,
                "generate_aligned_config": generate_aligned_config,
                "judge_responses_config": judge_responses_config,
                "score_benchmarks_config": score_benchmarks_config,
                "write_report_config": write_report_config,
                "publish_model_config": publish_model_config,
                **{name: other[name] for name in optional},
            }
        channels = {name: other[name] for name in placement}
        place, on_nodes = placer(config.kubeflow, channels), node_inputs(config.kubeflow, channels)
        end = place(
            record_run(config=record_run_config, run_id=RUN_ID, started=started),
            "Record run",
            cached=False,
        )
        with ExitStack() as groups:
            groups.enter_context(dsl.ExitHandler(end, name="Alignment"))
            inputs = place(
                resolve_inputs(
                    config=resolve_inputs_config,
                    code_digest=code_of("resolve_inputs"),
                    run_id=RUN_ID,
                    settings=settings,
                    **compared,
                ),
                "Resolve inputs",
                cached=False,
            )
            if config.resolve_inputs.skip_unchanged:
                groups.enter_context(dsl.If(inputs.outputs["Output"] == CHANGED, name="If changed"))
            data = place(
                import_data(
                    config=import_data_config,
                    code_digest=code_of("import_data"),
                    input_digests=inputs.outputs["digests"],
                ),
                "Import data",
            )
            base = place(
                import_model(
                    config=import_model_config,
                    code_digest=code_of("import_model"),
                    input_digests=inputs.outputs["digests"],
                ),
                "Import base model",
            ).outputs["base_model"]
            judge = base
            if config.judge_model is not None:
                judge = place(
                    import_model(
                        config=judge_model_config,
                        code_digest=code_of("import_model"),
                        input_digests=inputs.outputs["digests"],
                    ),
                    "Import judge model",
                ).outputs["base_model"]
            labelled = place(
                classify_prompts(
                    config=classify_prompts_config,
                    code_digest=code_of("classify_prompts"),
                    prompts=data.outputs["prompts"],
                    judge_model=judge,
                ),
                "Classify prompts",
            ).outputs["labelled_prompts"]

            def assembled(section: Any, name: str) -> Any:
                return place(
                    assemble_dataset(
                        config=section,
                        code_digest=code_of("assemble_dataset"),
                        input_digests=inputs.outputs["digests"],
                        labelled_prompts=labelled,
                        pairs=data.outputs["pairs"],
                    ),
                    name,
                )

            dataset = assembled(assemble_dataset_config, "Assemble dataset")
            new_datasets = {
                arm.data: assembled(
                    other[f"arm_{arm.slug}_assemble_config"], f"Assemble dataset, {arm.name}"
                )
                for arm in (config.plan.new_data if config.plan else ())
            }

            def scorer(section: Any, name: str, num_nodes: int) -> Any:
                task = train_scorer(
                    config=section,
                    code_digest=code_of("train_scorer"),
                    pairs=dataset.outputs["scorer_pairs"],
                    base_model=base,
                    **on_nodes("train_scorer", num_nodes),
                )
                # A size that the data cannot fill must show before anything is trained.
                task.after(*new_datasets.values())
                return place(task, name, num_nodes=num_nodes).outputs["scorer"]

            scorers = config.train_scorer
            reward_model = scorer(
                reward_model_config, "Train reward model", scorers.reward.num_nodes
            )
            cost_model = scorer(cost_model_config, "Train cost model", scorers.cost.num_nodes)
            eval_cost_model = scorer(
                eval_cost_model_config, "Train evaluation cost model", scorers.eval_cost.num_nodes
            )
            train_pairs = dataset.outputs["train_pairs"]
            if config.build_pairs is not None:
                train_pairs = place(
                    build_pairs(
                        config=other["build_pairs_config"],
                        code_digest=code_of("build_pairs"),
                        labelled_prompts=labelled,
                        base_model=base,
                        reward_model=reward_model,
                        cost_model=cost_model,
                        train_pairs=train_pairs,
                    ),
                    "Build pairs",
                ).outputs["pairs"]

            def with_scores(pairs: Any, name: str) -> Any:
                return place(
                    score_tokens(
                        config=score_tokens_config,
                        code_digest=code_of("score_tokens"),
                        pairs=pairs,
                        reward_model=reward_model,
                        cost_model=cost_model,
                        reference_model=base,
                    ),
                    name,
                ).outputs["scored_pairs"]

            scored = with_scores(train_pairs, "Score tokens")

            nodes = config.train_policy.num_nodes

            def trained(section: Any, pairs: Any, name: str, num_nodes: int = nodes) -> Any:
                return place(
                    train_policy(
                        config=section,
                        code_digest=code_of("train_policy"),
                        scored_pairs=pairs,
                        eval_pairs=dataset.outputs["eval_pairs"],
                        base_model=base,
                        **on_nodes("train_policy", num_nodes),
                    ),
                    name,
                    num_nodes=num_nodes,
                ).outputs["policy"]

            policy = trained(train_policy_config, scored, "Train policy")

            def generations(section: Any, model: Any, arm: str) -> Any:
                return place(
                    generate_responses(
                        config=section,
                        code_digest=code_of("generate_responses"),
                        prompts=labelled,
                        model=model,
                    ),
                    f"Generate with {arm} model",
                ).outputs["generations"]

            def verdicts(answers: Any, arm: str, **others: Any) -> Any:
                return place(
                    judge_responses(
                        config=judge_responses_config,
                        code_digest=code_of("judge_responses"),
                        prompts=labelled,
                        generations=answers,
                        judge_model=judge,
                        reward_model=reward_model,
                        cost_model=eval_cost_model,
                        **others,
                    ),
                    f"Judge {arm} model",
                ).outputs["verdicts"]

            def benchmarks(model: Any, arm: str) -> Any:
                return place(
                    score_benchmarks(
                        config=score_benchmarks_config,
                        code_digest=code_of("score_benchmarks"),
                        input_digests=inputs.outputs["digests"],
                        model=model,
                    ),
                    f"Benchmark {arm} model",
                ).outputs["benchmark_scores"]

            base_answers = generations(generate_base_config, base, "base")
            aligned_answers = generations(generate_aligned_config, policy, "aligned")
            # Before those of other models: kfp numbers tasks, and its cache knows them by name.
            main = {
                "base_verdicts": verdicts(
                    base_answers, "base", labelled_pairs=dataset.outputs["eval_pairs"]
                ),
                "aligned_verdicts": verdicts(
                    aligned_answers, "aligned", other_generations=base_answers
                ),
                "base_benchmarks": benchmarks(base, "base"),
                "aligned_benchmarks": benchmarks(policy, "aligned"),
            }
            control: dict[str, Any] = {}
            if config.train_control is not None:
                plain = trained(
                    other["train_control_config"],
                    scored,
                    "Train control policy",
                    config.train_control.num_nodes,
                )
                answers = generations(other["generate_control_config"], plain, "control")
                control = {
                    "control_policy": plain,
                    "control_generations": answers,
                    "control_verdicts": verdicts(
                        answers, "control", other_generations=base_answers
                    ),
                    "control_benchmarks": benchmarks(plain, "control"),
                }
            studied: dict[str, Any] = {}
            if config.plan is not None and config.study is not None:
                tasks = ArmTasks(
                    with_scores,
                    trained,
                    generations,
                    lambda answers, arm: verdicts(answers, arm, other_generations=base_answers),
                    benchmarks if config.study.benchmarks else None,
                )
                studied["arms"] = gathered_arms(
                    config.plan,
                    tasks,
                    sections=other,
                    place=place,
                    own_data=(train_pairs, scored),
                    datasets={d: task.outputs["train_pairs"] for d, task in new_datasets.items()},
                )
            written = place(
                write_report(
                    config=write_report_config,
                    code_digest=code_of("write_report"),
                    labelled_prompts=labelled,
                    train_pairs=dataset.outputs["train_pairs"],
                    scored_pairs=scored,
                    reward_model=reward_model,
                    cost_model=cost_model,
                    eval_cost_model=eval_cost_model,
                    policy=policy,
                    base_generations=base_answers,
                    aligned_generations=aligned_answers,
                    **main,
                    **control,
                    **studied,
                ),
                "Write report",
            )
            place(
                publish_model(
                    config=publish_model_config,
                    code_digest=code_of("publish_model"),
                    policy=policy,
                    report=written.outputs["report"],
                ),
                "Publish model",
                cached=False,
            )

    return alignment
