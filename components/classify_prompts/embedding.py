"""Prompts as vectors: the base model's hidden states, averaged over each prompt's tokens.

conversations + model folder -> one row of features per prompt, batch by batch.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from components.classify_prompts.config import ClassifierConfig
from equilibrate_core.models import load_causal_lm, load_tokenizer
from equilibrate_core.records import Message

# N = prompts in the batch, P = their tokens, H = hidden size
Floats = NDArray[np.float32]


class Embedder:
    """The lower layers of a language model as a feature extractor."""

    def __init__(self, model_path: Path, config: ClassifierConfig) -> None:
        self.config = config
        self.tokenizer = load_tokenizer(model_path)
        model = load_causal_lm(model_path).base_model
        if hasattr(model, "layers"):
            model.layers = model.layers[: max(1, round(len(model.layers) * config.depth))]
        self.model = model

    def embed(self, conversations: Sequence[Sequence[Message]]) -> Floats:
        """Features of shape (prompts, 2 H): the mean over all tokens beside the last token's."""
        if not conversations:
            return np.empty((0, 2 * self.model.config.hidden_size), dtype=np.float32)
        texts = ["\n".join(m.content for m in turns) for turns in conversations]
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        size = self.config.batch_size
        rows: list[Floats | None] = [None] * len(texts)
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            for row, features in zip(batch, self._batch([texts[i] for i in batch]), strict=True):
                rows[row] = features
        return np.stack([row for row in rows if row is not None])

    @torch.inference_mode()
    def _batch(self, texts: Sequence[str]) -> Floats:
        ids, mask = zip(*map(self._encode, texts), strict=True)
        width = max(map(len, ids))
        ids_NP = torch.tensor([row + [0] * (width - len(row)) for row in ids])
        mask_NP = torch.tensor([row + [0] * (width - len(row)) for row in mask])
        ids_NP, mask_NP = ids_NP.to(self.model.device), mask_NP.to(self.model.device)
        hidden_NPH = self.model(ids_NP, attention_mask=mask_NP, use_cache=False).last_hidden_state
        hidden_NPH = hidden_NPH.float()
        lengths_N = mask_NP.sum(dim=1)
        mean_NH = (hidden_NPH * mask_NP[..., None]).sum(dim=1) / lengths_N[:, None]
        last_NH = hidden_NPH[torch.arange(len(texts)), lengths_N - 1]
        return torch.cat([mean_NH, last_NH], dim=1).cpu().numpy()

    def _encode(self, text: str) -> tuple[list[int], list[int]]:
        # The end-of-text token stands in front: the first position of a causal model sees nothing
        # and carries the same outlier whatever the text is.
        start = self.tokenizer.bos_token_id
        start = self.tokenizer.eos_token_id if start is None else start
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        ids = [start, *ids[: self.config.max_length]]
        return ids, [1] * len(ids)


def chunks(num_rows: int, size: int) -> Iterator[range]:
    """Consecutive ranges of at most `size` rows."""
    return (range(start, min(start + size, num_rows)) for start in range(0, num_rows, size))
