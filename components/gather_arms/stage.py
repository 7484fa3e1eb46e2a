"""Add one arm of a study to those gathered before it.

an arm's pairs, policy, answers, verdicts and scores + earlier arms -> arms. Small figures and texts
are copied, weights are not; each copied artifact keeps its manifest and with it its origin.
"""

import json
import shutil
from pathlib import Path

from components.gather_arms.config import GatherArmsConfig
from equilibrate_core.arms import FACTS, arm_facts, check_made_from, read_arms
from equilibrate_core.artifacts import read_manifest, write_text
from equilibrate_core.errors import ConfigError
from equilibrate_core.stage import Metrics, stage_main, start_stage


def gather_arms(
    config: GatherArmsConfig,
    *,
    train_pairs: Path,
    scored_pairs: Path,
    policy: Path,
    generations: Path,
    verdicts: Path,
    arms: Path,
    benchmarks: Path | None = None,
    earlier_arms: Path | None = None,
) -> Metrics:
    """Put one arm's results beside those of the arms before it."""
    run = start_stage(
        "gather_arms",
        config,
        train_pairs=train_pairs,
        scored_pairs=scored_pairs,
        policy=policy,
        generations=generations,
        verdicts=verdicts,
        benchmarks=benchmarks,
        earlier_arms=earlier_arms,
    )
    check_made_from(scored_pairs, "pairs", train_pairs)
    check_made_from(policy, "scored_pairs", scored_pairs)
    check_made_from(generations, "model", policy)
    check_made_from(verdicts, "generations", generations)
    if benchmarks is not None:
        check_made_from(benchmarks, "model", policy)
    before = [] if earlier_arms is None else read_arms(earlier_arms)
    names = [folder.facts.name for folder in before]
    if config.name in names:
        raise ConfigError(f"gather_arms: arm {config.name!r} is there already, among {names}")
    facts = arm_facts(
        config.name,
        train_pairs=read_manifest(train_pairs),
        scored_pairs=scored_pairs,
        policy=read_manifest(policy),
        training=json.loads((policy / "metrics.json").read_text(encoding="utf-8")),
    )
    with run.output(arms, "arms") as draft:
        for index, folder in enumerate(before):
            shutil.copytree(folder.path, draft.path / f"{index:03d}")
        own = draft.path / f"{len(before):03d}"
        parts = {"generations": generations, "verdicts": verdicts, "benchmarks": benchmarks}
        for name, source in parts.items():
            if source is not None:
                shutil.copytree(source, own / name)
        write_text(own / FACTS, facts.model_dump_json(indent=2))
    pairs = {f"num_pairs_{category}": float(n) for category, n in facts.pairs.items()}
    return {"num_arms": len(before) + 1, **pairs}


if __name__ == "__main__":
    raise SystemExit(stage_main(gather_arms, GatherArmsConfig))
