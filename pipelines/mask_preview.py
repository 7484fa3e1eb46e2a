"""The masks of any scored pairs as an HTML page, without training.

scored_pairs + the model they were scored for + pair ids -> page.
"""

from collections.abc import Sequence
from pathlib import Path

from components.train_policy.config import TrainPolicyConfig
from components.train_policy.previews import mask_previews
from components.train_policy.stage import masked_rows
from components.write_report.masks import to_preview
from components.write_report.page import render_mask_page
from equilibrate_core.errors import ConfigError, DataError
from equilibrate_core.models import load_tokenizer


def preview_masks(
    config: TrainPolicyConfig,
    scored_pairs: Path,
    model: Path,
    pair_ids: Sequence[str],
    number: int,
) -> str:
    """Page with the pairs named by the beginning of their ids, or else with the first `number`.

    Raises ConfigError for masks that only a batch has, DataError for an id that is not there.
    """
    if config.ama.baseline == "batch_mean" and config.loss != "dpo":
        raise ConfigError(
            "train_policy.ama.baseline: batch_mean depends on the batch, so that no pair has a "
            "mask of its own to look at; choose another baseline for the preview"
        )
    rows = masked_rows(config, scored_pairs)
    for wanted in pair_ids:
        if not any(row.id.startswith(wanted) for row in rows):
            raise DataError(
                f"{scored_pairs}: no pair whose id begins with {wanted!r} among {len(rows)}; the "
                f"first is {rows[0].id}"
            )
    chosen = [row for row in rows if any(row.id.startswith(wanted) for wanted in pair_ids)]
    content = mask_previews(chosen if pair_ids else rows[:number], load_tokenizer(model))
    ama = config.ama
    settings = (
        f"loss {config.loss}, credit {ama.credit}, score {ama.score}, baseline {ama.baseline}, "
        f"min_kept {ama.min_kept:g}"
    )
    return render_mask_page([to_preview(row) for row in content["previews"]], settings)
