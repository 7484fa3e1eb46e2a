"""Both answers of a pair as token ids, or a counted reason why there are none.

pair -> chosen and rejected answer; a pair that the chat template refuses costs itself alone.
"""

import logging

from equilibrate_core.artifacts import Counts
from equilibrate_core.chat import Encoded, Tokenizer, encode_answer
from equilibrate_core.errors import TemplateRefusal
from equilibrate_core.records import Pair

logger = logging.getLogger(__name__)
REFUSED = "template_refuses"


def encode_pair(
    tokenizer: Tokenizer, pair: Pair, counts: Counts, *, reason: str = REFUSED
) -> list[Encoded] | None:
    """Chosen and rejected answer; None, counted as dropped for `reason`, where there can be none.

    The first pair so dropped is named in a warning.
    """
    try:
        return [encode_answer(tokenizer, pair.messages, a) for a in (pair.chosen, pair.rejected)]
    except TemplateRefusal as error:
        if reason not in counts.dropped:
            logger.warning("pair %s is dropped, and so is every other like it: %s", pair.id, error)
        counts.drop(reason)
        return None
