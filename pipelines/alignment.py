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
from components.assemble_dataset.config import AssembleDatasetConfig
from components.build_pairs.component import build_pairs
from components.classify_prompts.component import classify_prompts
from components.generate_responses.component import generate_responses
from components.import_data.component import import_data
from components.import_model.component import import_model
from components.judge_responses.component import judge_responses
from components.publish_model.component import publish_model
from components.record_run.component import record_run
from components.resolve_inputs.component import resolve_inputs
from components.resolve_inputs.config import CHANGED, ResolveInputsConfig
from components.score_benchmarks.component import score_benchmarks
from components.score_benchmarks.config import HUB
from components.score_tokens.component import score_tokens
from components.train_policy.component import train_policy
from components.train_scorer.component import train_scorer
from components.write_report.component import write_report
from equilibrate_core.config import to_json
from equilibrate_core.digests import code_digest
from pipelines.kubeflow_config import POOLS
from pipelines.placement import placement_defaults, placer, with_parameters
from pipelines.run_config import RunConfig

RUN_ID = dsl.PIPELINE_JOB_ID_PLACEHOLDER
CREATED = dsl.PIPELINE_JOB_CREATE_TIME_UTC_PLACEHOLDER
OPTIONAL = ("build_pairs_config", "train_control_config", "generate_control_config")
"""Parameters that are there only when their section is: others would puzzle in the UI."""


def sections(config: RunConfig, *, cluster: bool = False) -> dict[str, str]:
    """The pipeline's parameters and their defaults: every task's own section as JSON."""
    generate = config.generate_responses
    ask = config.kubeflow.api_url if cluster else ""
    optional: dict[str, Any] = {}
    if config.build_pairs is not None:
        optional["build_pairs"] = config.build_pairs
    if config.train_control is not None:
        optional["train_control"] = config.train_control
        optional["generate_control"] = generate.model_copy(update={"model_name": "control"})
    return {
        "resolve_inputs_config": to_json(resolver_config(config)),
        "import_data_config": to_json(config.import_data),
        "import_model_config": to_json(config.import_model),
        "judge_model_config": to_json(config.judge_model or config.import_model),
        "classify_prompts_config": to_json(config.classify_prompts),
        "assemble_dataset_config": to_json(assembly_config(config)),
        "reward_model_config": to_json(config.train_scorer.reward),
        "cost_model_config": to_json(config.train_scorer.cost),
        "eval_cost_model_config": to_json(config.train_scorer.eval_cost),
        "score_tokens_config": to_json(config.score_tokens),
        "train_policy_config": to_json(config.train_policy),
        "generate_base_config": to_json(generate.model_copy(update={"model_name": "base"})),
        "generate_aligned_config": to_json(generate.model_copy(update={"model_name": "aligned"})),
        "judge_responses_config": to_json(config.judge_responses),
        "score_benchmarks_config": to_json(config.score_benchmarks),
        "write_report_config": to_json(
            config.write_report.model_copy(update={"run_name": config.name})
        ),
        "publish_model_config": to_json(config.publish_model),
        "record_run_config": to_json(
            config.record_run.model_copy(update={"pipeline": config.name, "api_url": ask})
        ),
        **{f"{name}_config": to_json(section) for name, section in optional.items()},
    }


def assembly_config(config: RunConfig) -> AssembleDatasetConfig:
    """The section, its decontamination told where the run's benchmarks are."""
    section, uri = config.assemble_dataset, config.score_benchmarks.data_uri
    if section.benchmarks_uri or uri == HUB:
        return section
    return section.model_copy(update={"benchmarks_uri": uri})


def alignment_pipeline(config: RunConfig, *, cluster: bool = False) -> Any:
    """Build the pipeline of a run; its defaults are the run's sections.

    For a cluster it also has parameters for images, resources and placement.
    """
    default = sections(config, cluster=cluster)
    optional = {name: default[name] for name in OPTIONAL if name in default}
    stages = [stage for stage in POOLS if stage != "build_pairs" or config.build_pairs is not None]
    placement = placement_defaults(config.kubeflow, stages) if cluster else {}
    ttl = dsl.PipelineConfig(ttl_seconds_after_finished=config.kubeflow.ttl_s)
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
        other = dict(zip(optional | placement, others, strict=True))
        settings = ""
        if config.resolve_inputs.skip_unchanged:  # what makes a run new beside its inputs
            own_settings = (
                import_data_config,
                import_model_config,
                judge_model_config,
                classify_prompts_config,
                assemble_dataset_config,
                reward_model_config,
                cost_model_config,
                eval_cost_model_config,
                score_tokens_config,
                train_policy_config,
                generate_base_config,
                generate_aligned_config,
                judge_responses_config,
                score_benchmarks_config,
                write_report_config,
                publish_model_config,
                *(other[name] for name in optional),
            )
            codes = [code_digest(stage) for stage in sorted(POOLS)]
            settings = "\n".join([*codes, *(str(section) for section in own_settings)])
        place = placer(config.kubeflow, {name: other[name] for name in placement})
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
                    code_digest=code_digest("resolve_inputs"),
                    run_id=RUN_ID,
                    settings=settings,
                ),
                "Resolve inputs",
                cached=False,
            )
            if config.resolve_inputs.skip_unchanged:
                groups.enter_context(dsl.If(inputs.outputs["Output"] == CHANGED, name="If changed"))
            data = place(
                import_data(
                    config=import_data_config,
                    code_digest=code_digest("import_data"),
                    input_digests=inputs.outputs["digests"],
                ),
                "Import data",
            )
            base = place(
                import_model(
                    config=import_model_config,
                    code_digest=code_digest("import_model"),
                    input_digests=inputs.outputs["digests"],
                ),
                "Import base model",
            ).outputs["base_model"]
            judge = base
            if config.judge_model is not None:
                judge = place(
                    import_model(
                        config=judge_model_config,
                        code_digest=code_digest("import_model"),
                        input_digests=inputs.outputs["digests"],
                    ),
                    "Import judge model",
                ).outputs["base_model"]
            labelled = place(
                classify_prompts(
                    config=classify_prompts_config,
                    code_digest=code_digest("classify_prompts"),
                    prompts=data.outputs["prompts"],
                    judge_model=judge,
                ),
                "Classify prompts",
            ).outputs["labelled_prompts"]
            dataset = place(
                assemble_dataset(
                    config=assemble_dataset_config,
                    code_digest=code_digest("assemble_dataset"),
                    labelled_prompts=labelled,
                    pairs=data.outputs["pairs"],
                ),
                "Assemble dataset",
            )

            def scorer(section: Any, name: str) -> Any:
                return place(
                    train_scorer(
                        config=section,
                        code_digest=code_digest("train_scorer"),
                        pairs=dataset.outputs["scorer_pairs"],
                        base_model=base,
                    ),
                    name,
                ).outputs["scorer"]

            reward_model = scorer(reward_model_config, "Train reward model")
            cost_model = scorer(cost_model_config, "Train cost model")
            eval_cost_model = scorer(eval_cost_model_config, "Train evaluation cost model")
            train_pairs = dataset.outputs["train_pairs"]
            if config.build_pairs is not None:
                train_pairs = place(
                    build_pairs(
                        config=other["build_pairs_config"],
                        code_digest=code_digest("build_pairs"),
                        labelled_prompts=labelled,
                        base_model=base,
                        reward_model=reward_model,
                        cost_model=cost_model,
                        train_pairs=train_pairs,
                    ),
                    "Build pairs",
                ).outputs["pairs"]
            scored = place(
                score_tokens(
                    config=score_tokens_config,
                    code_digest=code_digest("score_tokens"),
                    pairs=train_pairs,
                    reward_model=reward_model,
                    cost_model=cost_model,
                    reference_model=base,
                ),
                "Score tokens",
            ).outputs["scored_pairs"]

            def trained(section: Any, name: str) -> Any:
                return place(
                    train_policy(
                        config=section,
                        code_digest=code_digest("train_policy"),
                        scored_pairs=scored,
                        eval_pairs=dataset.outputs["eval_pairs"],
                        base_model=base,
                    ),
                    name,
                ).outputs["policy"]

            policy = trained(train_policy_config, "Train policy")

            def generations(section: Any, model: Any, arm: str) -> Any:
                return place(
                    generate_responses(
                        config=section,
                        code_digest=code_digest("generate_responses"),
                        prompts=labelled,
                        model=model,
                    ),
                    f"Generate with {arm} model",
                ).outputs["generations"]

            def verdicts(answers: Any, arm: str, **others: Any) -> Any:
                return place(
                    judge_responses(
                        config=judge_responses_config,
                        code_digest=code_digest("judge_responses"),
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
                        code_digest=code_digest("score_benchmarks"),
                        input_digests=inputs.outputs["digests"],
                        model=model,
                    ),
                    f"Benchmark {arm} model",
                ).outputs["benchmark_scores"]

            base_answers = generations(generate_base_config, base, "base")
            aligned_answers = generations(generate_aligned_config, policy, "aligned")
            control: dict[str, Any] = {}
            if config.train_control is not None:
                plain = trained(other["train_control_config"], "Train control policy")
                answers = generations(other["generate_control_config"], plain, "control")
                control = {
                    "control_policy": plain,
                    "control_generations": answers,
                    "control_verdicts": verdicts(
                        answers, "control", other_generations=base_answers
                    ),
                    "control_benchmarks": benchmarks(plain, "control"),
                }
            written = place(
                write_report(
                    config=write_report_config,
                    code_digest=code_digest("write_report"),
                    labelled_prompts=labelled,
                    train_pairs=dataset.outputs["train_pairs"],
                    scored_pairs=scored,
                    reward_model=reward_model,
                    cost_model=cost_model,
                    eval_cost_model=eval_cost_model,
                    policy=policy,
                    base_generations=base_answers,
                    aligned_generations=aligned_answers,
                    base_verdicts=verdicts(
                        base_answers, "base", labelled_pairs=dataset.outputs["eval_pairs"]
                    ),
                    aligned_verdicts=verdicts(
                        aligned_answers, "aligned", other_generations=base_answers
                    ),
                    base_benchmarks=benchmarks(base, "base"),
                    aligned_benchmarks=benchmarks(policy, "aligned"),
                    **control,
                ),
                "Write report",
            )
            place(
                publish_model(
                    config=publish_model_config,
                    code_digest=code_digest("publish_model"),
                    policy=policy,
                    report=written.outputs["report"],
                ),
                "Publish model",
                cached=False,
            )

    return alignment


def resolver_config(config: RunConfig) -> ResolveInputsConfig:
    """What resolve_inputs looks at: every source, model and benchmark folder of the run."""
    models = [m for m in (config.import_model, config.judge_model) if m is not None]
    pinned = [f"{m.uri}@{m.revision}" if m.revision else m.uri for m in models]
    uris = [*config.resolve_inputs.uris, *pinned, config.score_benchmarks.data_uri]
    publish = config.publish_model
    values = config.resolve_inputs.model_dump() | {
        "sources": [{"uri": source.uri} for source in config.import_data.sources],
        "uris": [uri for uri in uris if uri not in ("smollm2", "hub")],
        "pipeline": config.name,
        "records_uri": config.record_run.destination_uri,
        "published_uri": f"{publish.destination_uri.rstrip('/')}/{publish.name}",
    }
    return ResolveInputsConfig.model_validate(values)
