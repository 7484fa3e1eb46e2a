"""Answers kept shard by shard, so that an interrupted generation goes on where it stopped.

A shard's key covers model, sampling, backend and the shard's own prompts: a shard of another run
is never taken for this one's, and a changed prompt costs its own shard alone.
"""

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from equilibrate_core.completions import Completion
from equilibrate_core.errors import DataError
from equilibrate_core.records import digest
from equilibrate_core.s3 import exists, put_if_absent, read_object
from equilibrate_core.s3_uris import is_s3, join_uri


class ShardStore:
    """Finished shards below a folder or an s3:// prefix."""

    def __init__(self, uri: str, run: dict[str, Any]) -> None:
        self.uri, self.run = uri, run

    def read(self, prompt_ids: Sequence[str]) -> list[Completion] | None:
        """The answers to these prompts, or None when the shard was not finished."""
        place = self._place(prompt_ids)
        if is_s3(place):
            if not exists(place):
                return None
            text = read_object(place)[0].decode()
        else:
            if not Path(place).is_file():
                return None
            text = Path(place).read_text(encoding="utf-8")
        rows = [Completion(**json.loads(line)) for line in text.splitlines()]
        if len(rows) != len(prompt_ids):
            raise DataError(
                f"{place}: {len(rows)} answers to {len(prompt_ids)} prompts; remove the file"
            )
        return rows

    def write(self, prompt_ids: Sequence[str], completions: Sequence[Completion]) -> None:
        """Keep a finished shard. One with failed rows is not kept: they deserve another try."""
        if any(completion.error for completion in completions):
            return
        place = self._place(prompt_ids)
        text = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in completions)
        if is_s3(place):
            put_if_absent(place, text.encode())
            return
        path = Path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)

    def _place(self, prompt_ids: Sequence[str]) -> str:
        name = f"shard-{digest([self.run, list(prompt_ids)])}.jsonl"
        return join_uri(self.uri, name) if is_s3(self.uri) else str(Path(self.uri) / name)
