"""What a reader must know before believing the benchmark average.

scores of base and aligned model -> warnings.
"""

from components.write_report.inputs import Evidence, Json

ALL_BENCHMARKS = 12
"""Those of the Equilibrate paper (arXiv 2502.11555)."""


def benchmark_warnings(evidence: Evidence) -> list[str]:
    """Benchmarks that the average is without, and answers that were allowed too few tokens."""
    return [*_left_out(evidence), *_short_answers(evidence)]


def _left_out(evidence: Evidence) -> list[str]:
    left_out = evidence.aligned.benchmarks.left_out
    if not left_out:
        return []
    return [
        f"The benchmark average is over {ALL_BENCHMARKS - len(left_out)} of the {ALL_BENCHMARKS} "
        f"benchmarks: {', '.join(left_out)} did not run. What asks for all benchmarks asks for "
        "those that ran."
    ]


def _short_answers(evidence: Evidence) -> list[str]:
    """One warning of all benchmarks whose answers end before the harness would end them."""
    tasks = evidence.aligned.benchmarks.tasks
    short = {name: task for name, task in tasks.items() if _is_short(task)}
    if not short:
        return []
    limits = [
        f"{name} {task['max_gen_tokens']} instead of {task['harness_max_gen_tokens']}"
        for name, task in short.items()
    ]
    models = {name: arm.benchmarks.tasks for name, arm in evidence.arms.items()}
    cut = [f"{_total('num_cut', short, of)} of {_total('num_items', short, of)} answers of the "
           f"{name} model" for name, of in models.items()]  # fmt: skip
    return [
        "Benchmark answers may have fewer tokens than lm-evaluation-harness allows "
        f"({', '.join(limits)}), so these scores compare with no published ones. "
        f"As long as allowed, and most likely cut: {', '.join(cut)}."
    ]


def _is_short(task: Json) -> bool:
    return 0 < task.get("max_gen_tokens", 0) < task.get("harness_max_gen_tokens", 0)


def _total(count: str, names: dict[str, Json], tasks: dict[str, Json]) -> int:
    return sum(int(tasks.get(name, {}).get(count) or 0) for name in names)
