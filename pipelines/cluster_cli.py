"""The commands that speak to a cluster: `equilibrate submit`, `follow` and `schedule …`."""

from pathlib import Path
from typing import Annotated

import typer

schedule_app = typer.Typer(
    help="Schedules of a run: six-field cron, one run at a time, no catching up.",
    no_args_is_help=True,
)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="Run file (YAML).")]
HostOption = Annotated[
    str, typer.Option(help="Kubeflow Pipelines; default KFP_HOST, else this cluster's own.")
]
ExperimentOption = Annotated[str, typer.Option(help="Experiment that the UI lists it under.")]
NamespaceOption = Annotated[
    str, typer.Option(help="Profile namespace of a multi-user installation.")
]
AccountOption = Annotated[str, typer.Option(help="Service account of the task pods.")]
PollOption = Annotated[float, typer.Option(min=0.01, help="Seconds between looks.")]
UiOption = Annotated[str, typer.Option(help="Address of the UI for links; default KFP_UI.")]
ParamOption = Annotated[
    list[str], typer.Option("--param", "-p", help="NAME=VALUE of a pipeline parameter; repeatable.")
]


def submit(
    config: ConfigOption,
    experiment: ExperimentOption = "equilibrate",
    run_name: Annotated[str, typer.Option(help="Name of the run; default unique.")] = "",
    param: ParamOption = [],  # noqa: B006  (typer's way of an empty list)
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run; exit 0 only if it succeeds.")
    ] = False,
    poll_s: PollOption = 15.0,
    host: HostOption = "",
    ui: UiOption = "",
    namespace: NamespaceOption = "",
    service_account: AccountOption = "equilibrate-pipeline",
) -> None:
    """Upload a run's pipeline if it is new, and start it on Kubeflow."""
    from pipelines import submit as submission
    from pipelines.kubeflow_api import connect
    from pipelines.run_config import load_run

    run_config, api = load_run(config), connect(host, ui)
    target = submission.Target(experiment, namespace, service_account)
    run = submission.submit(api, run_config, target, run_name=run_name, parameters=param)
    typer.echo(f"run: {run['display_name']} {run['run_id']}")
    typer.echo(f"link: {submission.run_link(api, run)}")
    if wait and not submission.wait(api, run["run_id"], typer.echo, poll_s=poll_s):
        raise typer.Exit(1)


def follow(
    run_id: Annotated[str, typer.Argument(help="Id of the run, as `submit` printed it.")],
    poll_s: PollOption = 15.0,
    host: HostOption = "",
    ui: UiOption = "",
) -> None:
    """Follow a submitted run to its end; exit 0 only if it succeeds."""
    from pipelines.kubeflow_api import connect
    from pipelines.submit import wait

    if not wait(connect(host, ui), run_id, typer.echo, poll_s=poll_s):
        raise typer.Exit(1)


@schedule_app.command("create")
def create(
    config: ConfigOption,
    cron: Annotated[
        str, typer.Option(help="Six fields, seconds first: '0 0 3 * * MON' is Mondays at 3 UTC.")
    ],
    name: Annotated[str, typer.Option(help="Name of the schedule; default the run's.")] = "",
    param: ParamOption = [],  # noqa: B006
    experiment: ExperimentOption = "equilibrate",
    host: HostOption = "",
    namespace: NamespaceOption = "",
    service_account: AccountOption = "equilibrate-pipeline",
) -> None:
    """Run a run file regularly; a schedule of the same name is replaced if it differs."""
    from pipelines.kubeflow_api import connect
    from pipelines.run_config import load_run
    from pipelines.schedule import check_cron, create_schedule, describe
    from pipelines.submit import Target

    check_cron(cron)  # before anything is compiled or uploaded
    run_config, target = load_run(config), Target(experiment, namespace, service_account)
    made, what = create_schedule(
        connect(host), run_config, target, cron=cron, name=name, parameters=param
    )
    typer.echo(f"{what}: {describe(made)}")
    if not run_config.resolve_inputs.skip_unchanged:
        typer.echo("note: resolve_inputs.skip_unchanged is off: every run goes through all stages")


@schedule_app.command("list")
def list_(
    experiment: ExperimentOption = "equilibrate",
    host: HostOption = "",
    namespace: NamespaceOption = "",
) -> None:
    """List the schedules of an experiment: name, cron, status, id."""
    from pipelines.kubeflow_api import connect
    from pipelines.schedule import describe, list_schedules
    from pipelines.submit import Target

    for schedule in list_schedules(connect(host), Target(experiment, namespace)):
        typer.echo(describe(schedule))


@schedule_app.command("disable")
def disable(
    name: Annotated[str, typer.Argument(help="Name of the schedule.")],
    experiment: ExperimentOption = "equilibrate",
    host: HostOption = "",
    namespace: NamespaceOption = "",
) -> None:
    """Stop a schedule from starting runs; `create` switches it on again."""
    from pipelines.kubeflow_api import connect
    from pipelines.schedule import disable_schedule
    from pipelines.submit import Target

    disable_schedule(connect(host), Target(experiment, namespace), name)
    typer.echo(f"disabled: {name}")


@schedule_app.command("delete")
def delete(
    name: Annotated[str, typer.Argument(help="Name of the schedule.")],
    experiment: ExperimentOption = "equilibrate",
    host: HostOption = "",
    namespace: NamespaceOption = "",
) -> None:
    """Remove a schedule; the runs it started stay."""
    from pipelines.kubeflow_api import connect
    from pipelines.schedule import delete_schedule
    from pipelines.submit import Target

    delete_schedule(connect(host), Target(experiment, namespace), name)
    typer.echo(f"deleted: {name}")
