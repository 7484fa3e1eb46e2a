"""Answers kept shard by shard, so that an interrupted generation goes on where it stopped.

A shard's key covers model, sampling, the backend and precision that run, code and versions of
libraries, and the messages of its prompts to the letter: a shard of another run, or of before an
upgrade, is never taken for this one's. Prompts are cut in order of their ids, so one that comes,
goes or changes its id costs the shards behind it, too.
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
from equilibrate_core.records import Prompt, digest
from equilibrate_core.s3 import exists, put_if_absent, read_object
from equilibrate_core.s3_uris import is_s3, join_uri


class ShardStore:
    """Finished shards below a folder or an s3:// prefix."""

    def __init__(self, uri: str, run: dict[str, Any]) -> None:
        self.uri, self.run = uri, run

    def read(self, prompts: Sequence[Prompt]) -> list[Completion] | None:
        """The answers to these prompts, or None when the shard was not finished."""
        place = self._place(prompts)
        if is_s3(place):
            if not exists(place):
                return None
            raw = read_object(place)[0]
        else:
            if not Path(place).is_file():
                return None
            raw = Path(place).read_bytes()
        try:  # bytes: str.splitlines would also cut at U+2028 and its like inside an answer
            rows = [Completion(**json.loads(line)) for line in raw.splitlines()]
        except (ValueError, TypeError) as error:
            raise DataError(f"{place}: not a shard of answers: {error}; remove the file") from error
        if len(rows) != len(prompts):
            raise DataError(
                f"{place}: {len(rows)} answers to {len(prompts)} prompts; remove the file"
            )
        return rows

    def write(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> None:
        """Keep a finished shard. One with failed rows is not kept: they deserve another try."""
        if any(completion.error for completion in completions):
            return
        place = self._place(prompts)
        text = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in completions)
        if is_s3(place):
            put_if_absent(place, text.encode())
            return
        path = Path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)

    def _place(self, prompts: Sequence[Prompt]) -> str:
        asked = [[message.model_dump() for message in prompt.messages] for prompt in prompts]
        name = f"shard-{digest([self.run, asked])}.jsonl"
        return join_uri(self.uri, name) if is_s3(self.uri) else str(Path(self.uri) / name)
