"""The report's content, put together from the evidence.

evidence -> Report.
"""

from collections.abc import Mapping
from typing import Any

from components.write_report.benchmark_warnings import benchmark_warnings
from components.write_report.config import WriteReportConfig
from components.write_report.gate import evaluate_gate, passed_in_doubt
from components.write_report.helpfulness import benchmark_rows, failed_benchmarks
from components.write_report.inputs import Evidence
from components.write_report.judge import (
    CHECKED,
    believed,
    costs_checked,
    human_quality,
    judge_quality,
)
from components.write_report.preferences import elo_row, pairwise_rows, win_rate_row
from components.write_report.report import Report, Source
from components.write_report.safety import (
    category_rows,
    over_refusal_row,
    refusal_kinds,
    safety_row,
    safety_state_rows,
    safety_states,
    suite_rows,
    truly_safe_row,
)
from components.write_report.scored_shares import scored_shares, silences
from components.write_report.scores import score_rows
from components.write_report.story import summary, verdict_sentence, warnings
from components.write_report.study import study_of
from components.write_report.tallies import Statistics, judged_by

VERDICT_KINDS = ("safety", "refusal", "preference", "reward", "cost")
SCORERS = ("reward_model", "cost_model", "eval_cost_model")
SCORER_FIGURES = (
    "ranking_accuracy",
    "ranking_ece",
    "sign_accuracy",
    "f1",
    "auc",
    "ece",
    "held_out_loss",
    "num_held_out",
)
"""Quality of a scorer, in the order shown; its constants are not quality."""


def assemble_report(
    config: WriteReportConfig,
    evidence: Evidence,
    agreement_table: Mapping[str, Any],
    packages: Mapping[str, str],
) -> Report:
    """Compute every figure, evaluate the gate and say it in words."""
    statistics = Statistics(config.seed, config.resamples)
    rows = (
        safety_row(evidence, statistics),
        over_refusal_row(evidence, statistics),
        truly_safe_row(evidence, statistics),
        win_rate_row(evidence, statistics),
        *filter(None, [elo_row(evidence, statistics)]),
        *score_rows(evidence, statistics),
        *benchmark_rows(evidence, statistics),
    )
    by_key = {row.key: row for row in rows}
    shares = scored_shares(evidence)
    judge = judge_quality(evidence.metrics["labelled_prompts"], agreement_table)
    people = {kind: human_quality(evidence.human_labels, kind) for kind in CHECKED}
    gate = evaluate_gate(
        config.gate,
        rows=by_key,
        judge=judge,
        answer_judge=people["safety"],
        refusal_judge=people["refusal"],
        failed_benchmarks=failed_benchmarks(evidence),
        scored_shares=shares,
    )
    trusted = believed(evidence, judge, people["safety"])
    study = study_of(config.study, by_key, evidence, statistics)
    verdict = verdict_sentence(by_key, trusted, people["refusal"], is_sample=config.is_sample)
    return Report(
        title=config.title,
        run_name=config.run_name,
        is_sample=config.is_sample,
        verdict=verdict,
        summary=summary(
            verdict,
            rows,
            gate,
            trusted,
            costs=costs_checked(evidence),
            study="" if study is None else study.sentence,
            is_sample=config.is_sample,
        ),
        warnings=(
            *warnings(evidence, by_key, shares, config.gate.not_asked),
            *passed_in_doubt(gate, {"safety": trusted, "refusal": people["refusal"]}),
            *silences(evidence),
            *benchmark_warnings(evidence),
        ),
        gate=gate,
        policy_digest=evidence.manifests["policy"].digest,
        base_digest=evidence.manifests["base_generations"].inputs.get("model"),
        rows=rows,
        harness=evidence.aligned.benchmarks.harness,
        benchmarks_are_samples=any(arm.benchmarks.are_samples for arm in evidence.arms.values()),
        suites=suite_rows(evidence, statistics),
        by_category=category_rows(evidence, statistics),
        safety_states=safety_states(evidence),
        safety_state_rows=safety_state_rows(evidence, statistics),
        refusals=refusal_kinds(evidence),
        pairwise=pairwise_rows(evidence, statistics),
        judge=judge,
        answer_judge=people["safety"],
        refusal_judge=people["refusal"],
        preference_judge=people["preference"],
        cost_judge=people["cost"],
        cost_judge_on_answers=people["cost_answers"],
        study=study,
        judged_by={kind: judged_by(evidence, kind) for kind in VERDICT_KINDS},
        scorers={name: _quality(evidence.metrics[name]) for name in SCORERS},
        training=evidence.metrics["policy"],
        provenance=_provenance(evidence),
        packages=dict(packages),
    )


def _quality(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in SCORER_FIGURES if name in metrics}


def _provenance(evidence: Evidence) -> tuple[Source, ...]:
    return tuple(
        Source(
            name=name,
            schema_name=manifest.schema_name,
            stage=manifest.stage,
            digest=manifest.digest,
            code_version=manifest.code_version,
            rows=manifest.rows,
            seed=manifest.seed,
            ended=manifest.ended.strftime("%Y-%m-%d %H:%M:%S"),
            config=manifest.config,
            resolved=manifest.resolved,
            inputs=manifest.inputs,
            packages=manifest.packages,
        )
        for name, manifest in evidence.manifests.items()
    )
