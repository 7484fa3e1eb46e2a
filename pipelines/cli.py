"""The `equilibrate` command.

Start-up imports no torch, transformers, vllm or deepspeed: a laptop validates or compiles a run in
a blink. Exit codes: 0 done, 2 a mistake of the user's, 3 a run that goes on without being followed,
75 told to stop, 1 anything else.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from equilibrate_core.errors import ConfigError, EquilibrateError
from equilibrate_core.redaction import redact
from pipelines import cluster_cli

app = typer.Typer(
    name="equilibrate",
    help="Make a language model truly safe: a Kubeflow pipeline, on a laptop or a cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command("submit")(cluster_cli.submit)
app.command("follow")(cluster_cli.follow)
app.add_typer(cluster_cli.schedule_app, name="schedule")

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="Run file (YAML).")]
WorkDirOption = Annotated[
    Path, typer.Option(help="Folder for artifacts, caches, logs and the local object store.")
]

STAGES = {
    "import_data": "ImportDataConfig",
    "import_model": "ImportModelConfig",
    "classify_prompts": "ClassifyPromptsConfig",
    "assemble_dataset": "AssembleDatasetConfig",
    "train_scorer": "TrainScorerConfig",
    "build_pairs": "BuildPairsConfig",
    "score_tokens": "ScoreTokensConfig",
    "train_policy": "TrainPolicyConfig",
    "generate_responses": "GenerateResponsesConfig",
    "gather_generations": "GatherGenerationsConfig",
    "judge_responses": "JudgeResponsesConfig",
    "score_benchmarks": "ScoreBenchmarksConfig",
    "gather_arms": "GatherArmsConfig",
    "write_report": "WriteReportConfig",
    "publish_model": "PublishModelConfig",
}


@app.command()
def run(
    config: ConfigOption,
    work_dir: WorkDirOption = Path("runs"),
    runner: Annotated[
        str, typer.Option(help="subprocess (this environment) or docker (the images).")
    ] = "subprocess",
) -> None:
    """Run the whole pipeline on this machine; unchanged stages come from the cache."""
    from pipelines.local import run_locally
    from pipelines.run_config import load_run
    from pipelines.summary import print_summary
    from pipelines.validation import local_store_gaps

    if runner not in ("subprocess", "docker"):
        raise ConfigError(f"--runner {runner}: choose subprocess or docker")
    run_config = load_run(config)
    typer.echo(f"equilibrate run {run_config.name}: {run_config.description}")
    for line in local_store_gaps(run_config):
        typer.echo(f"warning: {line}", err=True)
    outcome = run_locally(run_config, work_dir, runner)
    print_summary(outcome)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def stage(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(STAGES)}.")],
) -> None:
    """Run one stage on files, without kfp; `equilibrate stage NAME -h` lists its options."""
    from equilibrate_core.stage import stage_main

    if name not in STAGES:
        raise ConfigError(f"no stage {name!r}; choose one of {', '.join(STAGES)}")
    function = getattr(importlib.import_module(f"components.{name}.stage"), name)
    config_type = getattr(importlib.import_module(f"components.{name}.config"), STAGES[name])
    raise typer.Exit(stage_main(function, config_type, context.args))


@app.command()
def validate(
    config: ConfigOption,
    offline: Annotated[
        bool, typer.Option("--offline", help="Check the file only, not what it points at.")
    ] = False,
) -> None:
    """Check a run file, and that its sources, model, secrets and endpoints can be used."""
    from pipelines.run_config import load_run
    from pipelines.validation import WARNING, check_run, gate_gaps, local_store_gaps

    run_config = load_run(config)
    typer.echo(f"{config}: valid run {run_config.name!r}")
    gaps = [*gate_gaps(run_config), *local_store_gaps(run_config)]
    for line in [*run_config.unmatched_processes, *gaps]:
        typer.echo(f"warning: {line}", err=True)
    if not offline:
        for line in check_run(run_config):
            warned = line.startswith(WARNING)
            typer.echo(line if warned else f"  {line}", err=warned)


@app.command("compile")
def compile_(
    config: ConfigOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="YAML file to write.")] = Path(
        "pipeline.yaml"
    ),
) -> None:
    """Compile a run to the YAML that Kubeflow Pipelines takes."""
    from pipelines.run_config import load_run
    from pipelines.submit import compile_run

    if output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--output {output}: must end in .yaml or .yml")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(compile_run(load_run(config)).text, encoding="utf-8")
    typer.echo(f"wrote {output}; upload it in the Kubeflow UI, or use equilibrate submit")


@app.command()
def report(
    path: Annotated[
        Path, typer.Argument(help="A run's folder, a report artifact, or a report.json.")
    ],
) -> None:
    """Print the summary of a report and where its page is."""
    file = path if path.is_file() else path / "report.json"
    if not file.is_file():
        raise ConfigError(f"{path}: no report.json there; give a run's folder, e.g. runs/laptop")
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        lines = content["summary"]
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{file}: not a report: {error}") from error
    for line in lines:
        typer.echo(line)
    typer.echo(f"report: {file.with_name('report.html').resolve()}")


@app.command("preview-masks")
def preview_masks(
    scored_pairs: Annotated[Path, typer.Option(help="Artifact of score_tokens.")],
    model: Annotated[Path, typer.Option(help="Artifact of import_model, for its tokenizer.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Run file whose train_policy makes the masks."),
    ] = None,
    pair: Annotated[
        list[str] | None, typer.Option(help="Beginning of a pair's id; may be given again.")
    ] = None,
    number: Annotated[int, typer.Option(min=1, help="Pairs to show where none is named.")] = 20,
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path(
        "masks.html"
    ),
) -> None:
    """Show which tokens of which pairs the masks keep, before or after a training."""
    from components.train_policy.config import TrainPolicyConfig
    from pipelines.mask_preview import preview_masks as page_of
    from pipelines.run_config import load_run

    policy_config = load_run(config).train_policy if config else TrainPolicyConfig()
    page = page_of(policy_config, scored_pairs, model, pair or [], number)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8")
    typer.echo(f"wrote {output}")


@app.command("fetch-model")
def fetch_model() -> None:
    """Fetch the small model (SmolLM2-135M-Instruct, 93 MB) into the user's cache folder.

    It is converted there once (540 MB).
    """
    from equilibrate_core.small_model import convert_small_model, fetch_small_model

    fetch_small_model()
    typer.echo(f"small model: {convert_small_model()}")


def main() -> None:
    """Entry point: errors as one clear line, exit codes as documented."""
    try:
        code = app(standalone_mode=False)  # what typer.Exit carried, or None
    except EquilibrateError as error:
        for line in redact(str(error)).splitlines():
            typer.echo(f"error: {line}", err=True)
        raise SystemExit(error.exit_code) from error
    except typer.Abort as aborted:
        raise SystemExit(1) from aborted
    except Exception as error:
        # typer's usage errors carry their own rendering and exit code 2.
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        raise SystemExit(getattr(error, "exit_code", 1)) from error
    raise SystemExit(code or 0)


if __name__ == "__main__":
    sys.exit(main())
