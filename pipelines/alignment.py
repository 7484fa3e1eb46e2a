"""The pipeline: what feeds what, wired once for laptop and cluster.

A RunConfig -> a `@dsl.pipeline` whose parameters are the config's sections as JSON, so that the
Kubeflow UI can edit them and an edited section re-runs its stage and what depends on it.
"""

# kfp reads real annotations: no `from __future__ import annotations` here.
import inspect
from collections.abc import Callable
from typing import Any

from kfp import dsl, kubernetes

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
from components.score_benchmarks.component import score_benchmarks
from components.score_tokens.component import score_tokens
from components.train_policy.component import train_policy
from components.train_scorer.component import train_scorer
from components.write_report.component import write_report
from equilibrate_core.config import to_json
from equilibrate_core.digests import code_digest
from pipelines.run_config import KubeflowConfig, RunConfig


def sections(config: RunConfig) -> dict[str, str]:
    """The pipeline's parameters and their defaults: every task's own section as JSON."""
    generate = config.generate_responses
    optional = {} if config.build_pairs is None else {"build_pairs": config.build_pairs}
    return {
        "resolve_inputs_config": to_json(resolver_config(config)),
        "import_data_config": to_json(config.import_data),
        "import_model_config": to_json(config.import_model),
        "judge_model_config": to_json(config.judge_model or config.import_model),
        "classify_prompts_config": to_json(config.classify_prompts),
        "assemble_dataset_config": to_json(config.assemble_dataset),
        "reward_model_config": to_json(config.train_scorer.reward),
        "cost_model_config": to_json(config.train_scorer.cost),
        "eval_cost_model_config": to_json(config.train_scorer.eval_cost),
        "score_tokens_config": to_json(config.score_tokens),
        "train_policy_config": to_json(config.train_policy),
        "train_control_config": to_json(config.train_control or config.train_policy),
        "generate_base_config": to_json(generate.model_copy(update={"model_name": "base"})),
        "generate_aligned_config": to_json(generate.model_copy(update={"model_name": "aligned"})),
        "generate_control_config": to_json(generate.model_copy(update={"model_name": "control"})),
        "judge_responses_config": to_json(config.judge_responses),
        "score_benchmarks_config": to_json(config.score_benchmarks),
        "write_report_config": to_json(
            config.write_report.model_copy(update={"run_name": config.name})
        ),
        "publish_model_config": to_json(config.publish_model),
        "record_run_config": to_json(config.record_run),
        **{f"{name}_config": to_json(section) for name, section in optional.items()},
    }


def alignment_pipeline(config: RunConfig) -> Any:
    """Build the pipeline of a run; its defaults are the run's sections."""
    default = sections(config)
    cpu, train, vllm = _pools(config.kubeflow)

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
        train_control_config: str = default["train_control_config"],
        generate_base_config: str = default["generate_base_config"],
        generate_aligned_config: str = default["generate_aligned_config"],
        generate_control_config: str = default["generate_control_config"],
        judge_responses_config: str = default["judge_responses_config"],
        score_benchmarks_config: str = default["score_benchmarks_config"],
        write_report_config: str = default["write_report_config"],
        publish_model_config: str = default["publish_model_config"],
        record_run_config: str = default["record_run_config"],
        build_pairs_config: str = default.get("build_pairs_config", ""),
    ):
        end = cpu(record_run(config=record_run_config), "Record run", cached=False)
        with dsl.ExitHandler(end, name="Alignment"):
            inputs = cpu(
                resolve_inputs(
                    config=resolve_inputs_config, code_digest=code_digest("resolve_inputs")
                ),
                "Resolve inputs",
                cached=False,
            )
            data = cpu(
                import_data(
                    config=import_data_config,
                    code_digest=code_digest("import_data"),
                    input_digests=inputs.output,
                ),
                "Import data",
            )
            base = cpu(
                import_model(
                    config=import_model_config,
                    code_digest=code_digest("import_model"),
                    input_digests=inputs.output,
                ),
                "Import base model",
            ).outputs["base_model"]
            judge = base
            if config.judge_model is not None:
                judge = cpu(
                    import_model(
                        config=judge_model_config,
                        code_digest=code_digest("import_model"),
                        input_digests=inputs.output,
                    ),
                    "Import judge model",
                ).outputs["base_model"]
            labelled = vllm(
                classify_prompts(
                    config=classify_prompts_config,
                    code_digest=code_digest("classify_prompts"),
                    prompts=data.outputs["prompts"],
                    judge_model=judge,
                ),
                "Classify prompts",
            ).outputs["labelled_prompts"]
            dataset = cpu(
                assemble_dataset(
                    config=assemble_dataset_config,
                    code_digest=code_digest("assemble_dataset"),
                    labelled_prompts=labelled,
                    pairs=data.outputs["pairs"],
                ),
                "Assemble dataset",
            )

            def scorer(section: Any, name: str) -> Any:
                return train(
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
                train_pairs = vllm(
                    build_pairs(
                        config=build_pairs_config,
                        code_digest=code_digest("build_pairs"),
                        labelled_prompts=labelled,
                        base_model=base,
                        reward_model=reward_model,
                        cost_model=cost_model,
                        train_pairs=train_pairs,
                    ),
                    "Build pairs",
                ).outputs["pairs"]
            scored = train(
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
                return train(
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
                return vllm(
                    generate_responses(
                        config=section,
                        code_digest=code_digest("generate_responses"),
                        prompts=labelled,
                        model=model,
                    ),
                    f"Generate with {arm} model",
                ).outputs["generations"]

            def verdicts(answers: Any, arm: str, **others: Any) -> Any:
                return vllm(
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
                return vllm(
                    score_benchmarks(
                        config=score_benchmarks_config,
                        code_digest=code_digest("score_benchmarks"),
                        input_digests=inputs.output,
                        model=model,
                    ),
                    f"Benchmark {arm} model",
                ).outputs["benchmark_scores"]

            base_answers = generations(generate_base_config, base, "base")
            aligned_answers = generations(generate_aligned_config, policy, "aligned")
            control: dict[str, Any] = {}
            if config.train_control is not None:
                plain = trained(train_control_config, "Train control policy")
                answers = generations(generate_control_config, plain, "control")
                control = {
                    "control_policy": plain,
                    "control_generations": answers,
                    "control_verdicts": verdicts(
                        answers, "control", other_generations=base_answers
                    ),
                    "control_benchmarks": benchmarks(plain, "control"),
                }
            written = cpu(
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
            cpu(
                publish_model(
                    config=publish_model_config,
                    code_digest=code_digest("publish_model"),
                    policy=policy,
                    report=written.outputs["report"],
                ),
                "Publish model",
                cached=False,
            )

    if config.build_pairs is None:  # a parameter nobody reads would only puzzle in the UI
        signature = inspect.signature(alignment)
        read = [p for n, p in signature.parameters.items() if n in default]
        alignment.__signature__ = signature.replace(parameters=read)  # pyright: ignore
    about = config.description or "Align a language model."
    return dsl.pipeline(name=config.name, description=about)(alignment)


Pool = Callable[..., Any]


def _pools(config: KubeflowConfig) -> tuple[Pool, Pool, Pool]:
    """One decorator per kind of task: its image, resources, placement, secrets and retries."""

    def pool(image: str, kind: str) -> Pool:
        resources = getattr(config, kind)

        def place(task: Any, name: str, *, cached: bool = True) -> Any:
            task.set_display_name(name)
            task.set_caching_options(cached)
            task.set_container_image(image)
            task.set_cpu_request(resources.cpu).set_memory_request(resources.memory)
            task.set_memory_limit(resources.memory)
            if config.max_retries:
                task.set_retry(config.max_retries, backoff_duration="30s", backoff_factor=2)
            if config.s3_secret:
                keys = {key: key for key in config.secret_variables}
                kubernetes.use_secret_as_env(task, config.s3_secret, keys)
            if resources.accelerators:
                task.set_accelerator_type(config.accelerator_type)
                task.set_accelerator_limit(resources.accelerators)
                for key, value in config.node_selector.items():
                    kubernetes.add_node_selector(task, key, value)
                for key in config.tolerate:
                    kubernetes.add_toleration(task, key=key, operator="Exists")
            return task

        return place

    return (
        pool(config.cpu_image, "cpu"),
        pool(config.train_image, "train"),
        pool(config.vllm_image, "vllm"),
    )


def resolver_config(config: RunConfig) -> Any:
    """What resolve_inputs looks at: every source, model and benchmark folder of the run."""
    from components.resolve_inputs.config import ResolveInputsConfig

    models = [m for m in (config.import_model, config.judge_model) if m is not None]
    pinned = [f"{m.uri}@{m.revision}" if m.revision else m.uri for m in models]
    uris = [*pinned, config.score_benchmarks.data_uri]
    return ResolveInputsConfig(
        sources=config.import_data.sources,
        uris=tuple(uri for uri in uris if uri not in ("smollm2", "hub")),
    )
