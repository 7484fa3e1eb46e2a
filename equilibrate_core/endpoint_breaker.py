"""When a server counts as down: as soon as too many rows in a row have used up their attempts.

A share of failures alone would notice late: 5 % of a million rows are 50,000, each tried for half
a minute.
"""

from equilibrate_core.errors import StageError
from equilibrate_core.generator_config import GeneratorConfig


class EndpointDown(StageError):
    """A server stopped answering; what it answered before is still good."""


class Breaker:
    """Counts over all requests of one server, whichever worker makes them."""

    def __init__(self, config: GeneratorConfig) -> None:
        self.config = config
        self.num_failed = 0

    def answered(self) -> None:
        """The server is there."""
        self.num_failed = 0

    def failed(self, problem: str) -> None:
        """Count a row of which every attempt failed; `problem` was the last.

        Raises EndpointDown at the `max_failures_in_a_row`th since the last answer.
        """
        self.num_failed += 1
        limit = self.config.max_failures_in_a_row
        if limit and self.num_failed >= limit:
            where = f"{self.config.endpoint_url} (model {self.config.endpoint_model})"
            raise EndpointDown(
                f"{where} is down: {self.num_failed} rows in a row failed, each tried "
                f"{self.config.max_retries + 1} times, none answered in between; the last: "
                f"{problem}; bring the server back and run again, or raise max_failures_in_a_row"
            )
