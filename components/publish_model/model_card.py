"""The card that goes with a published model: what it is, how it was made, how it scored."""

from collections.abc import Mapping
from typing import Any

from equilibrate_core.artifacts import Manifest


def model_card(name: str, manifest: Manifest, report: Mapping[str, Any]) -> str:
    """Markdown of the card; the report beside it has every figure."""
    gate = report["gate"]
    lines = [
        "---",
        "tags: [safety, alignment, equilibrate]",
        "---",
        "",
        f"# {name}",
        "",
        f"Aligned by Equilibrate, stage `{manifest.stage}`, loss `{manifest.config.get('loss')}`.",
        f"Content digest `{manifest.digest}`.",
        "",
    ]
    if report.get("is_sample"):
        lines += [
            "> **Sample run.** The data are a small sample that shows the pipeline at work. The",
            "> figures measure nothing and the model is not fit for use.",
            "",
        ]
    verdict, warnings = report["verdict"], report["warnings"]
    lines += ["## Verdict", "", verdict, ""]
    if warnings:
        lines += ["## Before you believe the figures", "", *(f"- {line}" for line in warnings), ""]
    figures = [line for line in report["summary"] if line != verdict]
    lines += ["## Summary", "", *(f"- {line}" for line in figures), ""]
    lines += [
        f"## Gate ({gate['label']})",
        "",
        "| condition | limit | value | passed |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {c['name']} | {c['limit']} | {c['value']} | {'yes' if c['passed'] else 'no'} |"
        for c in gate["conditions"]
    ]
    inputs = sorted(manifest.inputs.items())
    lines += ["", "## Provenance", "", *(f"- {n}: `{d}`" for n, d in inputs)]
    lines += [f"- code: `{manifest.code_version}`", f"- seed: {manifest.seed}", ""]
    return "\n".join(lines)
