"""The end of a local run on one screen: stages and times, the report's summary, the places."""

from rich.console import Console
from rich.table import Table

from pipelines.local import Outcome


def print_summary(outcome: Outcome) -> None:
    """Print one table of the stages, the lines of the report, and the places to look."""
    console = Console()
    table = Table(title="Stages", title_justify="left")
    for column in ("stage", "outcome"):
        table.add_column(column)
    table.add_column("seconds", justify="right")
    for task, result, seconds in outcome.tasks:
        table.add_row(task, result, f"{seconds:.0f}" if result != "cached" else "")
    table.add_row("whole run", "", f"{outcome.seconds:.0f}", style="bold")
    console.print(table)
    for line in outcome.summary:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    publication = outcome.publication
    if publication["published"]:
        console.print(f"published: {publication['uri']}", soft_wrap=True, highlight=False)
    else:
        console.print(f"not published: {publication['reason']}", soft_wrap=True, highlight=False)
    console.print(f"report: {outcome.folder / 'report.html'}", soft_wrap=True, highlight=False)
