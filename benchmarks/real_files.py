"""The whole pipeline on real public files, a few hundred rows of each, with SmolLM2.

    python benchmarks/real_files.py --data FOLDER [--rows N] [--pairs N] [--prompts N] [--items N]
        [--sort-by judge|classifier]
        [--study ablation|scaling] [--sizes N N …] [--skip-arm-benchmarks]

FOLDER holds the public sets as published, in these sub-folders: equilibrate, pku_saferlhf, hh_rlhf,
helpful_pairs, safety_prompts, helpful_prompts, judge_labels, benchmarks. None of them comes with
this project.

--study trains the arms of pipelines/configs/ablation.yaml, or a curve a category over --sizes,
beside the run's own policy, and the report sets them side by side. Every arm takes what the run's
own policy takes from train_policy to score_benchmarks. With --sort-by classifier a head trained on
the gold labels sorts the prompts, where SmolLM2's own word is next to chance.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from equilibrate_core.config import parse_config
from equilibrate_core.errors import EquilibrateError
from equilibrate_core.stage import report_error
from pipelines.local import run_locally
from pipelines.run_config import RunConfig
from pipelines.summary import print_summary

CONFIGS = Path(__file__).parents[1] / "pipelines" / "configs"
SAFETY = "safety_prompts"
SOURCES: tuple[tuple[str, str, str, str], ...] = (
    # name, adapter, file, licence
    (
        "equilibrate",
        "equilibrate",
        "equilibrate/beavertails_selected_relabelled.json",
        "Apache-2.0",
    ),
    ("pku_pairs", "pku_saferlhf", "pku_saferlhf/pairs.jsonl", "CC BY-NC 4.0"),
    ("pku_full", "pku_saferlhf_full", "pku_saferlhf/full_schema_32.json", "CC BY-NC 4.0"),
    ("hh_harmless", "hh_rlhf", "hh_rlhf/harmless_base.jsonl", "MIT"),
    ("helpful_en", "dpo_demo", "helpful_pairs/dpo_en_demo.json", "Apache-2.0"),
    ("helpful_zh", "dpo_demo", "helpful_pairs/dpo_zh_demo.json", "Apache-2.0"),
    ("xstest", "xstest", f"{SAFETY}/xstest.csv", "CC BY 4.0"),
    ("or_bench", "or_bench", f"{SAFETY}/or_bench_hard.jsonl", "Apache-2.0"),
    ("harmbench", "harmbench", f"{SAFETY}/harmbench_val.csv", "MIT"),
    ("strongreject", "strongreject", f"{SAFETY}/strongreject.csv", "MIT"),
    ("beavertails", "beavertails_evaluation", f"{SAFETY}/beavertails_evaluation.json", "CC BY-NC"),
    ("problem_83", "safe_rlhf_problem_83", f"{SAFETY}/safe_rlhf_problem_83.json", "Apache-2.0"),
    ("sst", "simple_safety_tests", f"{SAFETY}/simple_safety_tests.csv", "CC BY 4.0"),
    ("mt_bench", "mt_bench", "helpful_prompts/mt_bench_questions.jsonl", "see upstream"),
    ("alpaca_eval", "alpaca_eval", "helpful_prompts/alpaca_eval_davinci003.jsonl", "CC BY-NC 4.0"),
    ("gptfuzz", "gptfuzz", "judge_labels/gptfuzz_jailbroken.csv", "MIT"),
    ("pyrit", "pyrit_refusal", "judge_labels/pyrit_refusal.csv", "MIT"),
)


def real_run(data: Path, rows: int, pairs: int, prompts: int, items: int) -> dict[str, Any]:
    """Run config over the real files as plain YAML values."""
    # Enough pairs for the scorers at any size: they train on about four times `pairs`.
    scorer_share = min(0.4, 8 * pairs / (4 * rows))
    training = {
        "epochs": 1,
        "batch_size": 16,
        "micro_batch_size": 4,
        "precision": "float32",
        "zero_stage": 0,
    }
    scorer = {"held_out_share": 0.2, "max_length": 320, "training": training}
    judge = {"judge": {"max_model_len": 2048}, "rationale": False, "max_tokens": 8}
    return {
        "name": "real-files",
        "description": f"SmolLM2 on up to {rows} rows of each public set.",
        "local": {"object_store": True},
        "import_data": {
            "sources": [
                {
                    "name": name,
                    "uri": str(data / file),
                    "adapter": adapter,
                    "limit": rows,
                    "licence": licence,
                }
                for name, adapter, file, licence in SOURCES
            ]
        },
        "import_model": {"uri": "smollm2"},
        "classify_prompts": {**judge, "max_unscored_share": 0.1},
        "assemble_dataset": {
            "label": "gold_else_judge",
            "quotas": {"EHD": pairs, "IHD": pairs, "MHD": pairs},
            "general_count": pairs,
            "scorer_share": scorer_share,
            "eval_share": 0.1,
        },
        "train_scorer": {
            "reward": {**scorer, "kind": "reward"},
            "cost": {**scorer, "kind": "cost", "rows": "first_half"},
            "eval_cost": {**scorer, "kind": "cost", "rows": "second_half", "seed": 1},
        },
        "score_tokens": {"max_length": 320, "precision": "float32"},
        "train_policy": {
            "max_length": 320,
            "max_eval_pairs": 64,
            "training": {**training, "learning_rate": 5e-6},
        },
        "generate_responses": {"max_prompts_per_suite": prompts, "sampling": {"max_tokens": 64}},
        "judge_responses": {**judge, "max_unscored_share": 0.1},
        "score_benchmarks": {
            "data_uri": str(data / "benchmarks"),
            "items_per_benchmark": items,
            "max_gen_tokens": 48,
        },
        "write_report": {
            "title": "Equilibrate on real public files",
            "gate": {"label": "mechanics only", "min_scored_share": 0.9},
        },
        "publish_model": {"destination_uri": "s3://equilibrate/models", "name": "real-files"},
        "record_run": {"destination_uri": "s3://equilibrate/records"},
        "kubeflow": {"max_retries": 0},
    }


def add_study(values: dict[str, Any], study: str, sizes: Sequence[int], benchmarks: bool) -> None:
    """Make a run one of the two studies."""
    values["name"] = f"real-{study}"
    values["write_report"]["title"] = f"Equilibrate on real public files: {study}"
    values["publish_model"]["name"] = f"real-{study}"
    if study == "ablation":
        shipped = yaml.safe_load((CONFIGS / "ablation.yaml").read_text(encoding="utf-8"))
        values["study"] = {**shipped["study"], "benchmarks": benchmarks}
        return
    values["assemble_dataset"]["strict_quotas"] = True
    curves = [{"category": c, "sizes": list(sizes)} for c in ("EHD", "IHD", "MHD")]
    values["study"] = {"reference": "all-quotas", "scaling": curves, "benchmarks": benchmarks}


def sort_by_classifier(values: dict[str, Any]) -> None:
    """Sort prompts by a head on SmolLM2's embeddings, trained on the gold labels."""
    values["classify_prompts"] = {
        "judge": {"kind": "classifier"},
        "classifier": {"seed_labels": "gold"},
    }


def main() -> int:
    """Run it and print where the report is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the public sets")
    parser.add_argument("--rows", type=int, default=300, help="rows read of each source")
    parser.add_argument("--pairs", type=int, default=40, help="training pairs per category")
    parser.add_argument("--prompts", type=int, default=24, help="prompts answered per suite")
    parser.add_argument("--items", type=int, default=10, help="items per benchmark, at least")
    parser.add_argument("--study", choices=("ablation", "scaling"), help="train several policies")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        help="pairs along a curve [0, half, --pairs]",
    )
    parser.add_argument("--skip-arm-benchmarks", action="store_true", help="of the study's arms")
    parser.add_argument("--sort-by", choices=("judge", "classifier"), default="judge")
    parser.add_argument("--work-dir", type=Path, default=Path("runs"))
    parser.add_argument("--print-config", action="store_true", help="print the run file and stop")
    arguments = parser.parse_args()
    shape = (arguments.rows, arguments.pairs, arguments.prompts, arguments.items)
    values = real_run(arguments.data.resolve(), *shape)
    if arguments.sort_by == "classifier":
        sort_by_classifier(values)
    if arguments.study:
        sizes = arguments.sizes or [0, math.ceil(arguments.pairs / 2), arguments.pairs]
        add_study(values, arguments.study, sizes, not arguments.skip_arm_benchmarks)
    if arguments.print_config:
        print(yaml.safe_dump(values, sort_keys=False))
        return 0
    try:
        print_summary(run_locally(parse_config(values, RunConfig, "real run"), arguments.work_dir))
    except EquilibrateError as error:
        return report_error(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
