"""Secrets kept out of what people read: logs, error lines, tracebacks.

Text -> the same text, with the values of secret environment variables replaced by ***. It is the
last line of defence; the first is that no secret is ever part of a config or a message.
"""

import logging
import os
import re

HIDDEN = "***"
_NAMES = re.compile(
    r"(SECRET|TOKEN|PASSWORD|PASSWD|API_?KEY|PRIVATE_KEY|CREDENTIAL)", re.IGNORECASE
)
_NOT_SECRET = re.compile(
    r"(PARALLELISM|_FILE$|_PATH$|_URI$|_URL$|_NAME$|^MAX_|_MAX_)", re.IGNORECASE
)
SHORTEST = 6
"""Characters a value must have: hiding a shorter one would blank out ordinary words."""


def secret_values() -> list[str]:
    """Values of this process's secret variables, the longest first."""
    values = {
        value
        for name, value in os.environ.items()
        if _NAMES.search(name) and not _NOT_SECRET.search(name) and len(value) >= SHORTEST
    }
    return sorted(values, key=len, reverse=True)


def redact(text: str) -> str:
    """The text without the values of secret variables."""
    for value in secret_values():
        text = text.replace(value, HIDDEN)
    return text


class RedactingFormatter(logging.Formatter):
    """Formats a record, its traceback included, and hides secrets in the result."""

    def format(self, record: logging.LogRecord) -> str:
        """The line without secrets."""
        return redact(super().format(record))
