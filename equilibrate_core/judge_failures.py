"""When a judge is given up: as soon as it leaves too many rows without a verdict.

Counted while answers come, for each judge by itself: a server that dies costs no attempts for all
the rows that are left, and the judges that do answer do not hide one that never does.
"""

from equilibrate_core.completions import Completion
from equilibrate_core.errors import StageError
from equilibrate_core.judge_config import JudgeConfig
from equilibrate_core.judge_question import Question, read_verdict


class Failures:
    """Rows of which no vote of one judge is a verdict."""

    def __init__(
        self, question: Question, config: JudgeConfig, num_rows: int, *, label: str, judge: str
    ) -> None:
        self.question, self.config, self.num_rows = question, config, num_rows
        self.label, self.judge = label, judge
        self.num_unscored = 0
        self._failed: dict[int, set[int]] = {}

    def see(self, first_row: int, vote: int, row: int, completion: Completion) -> None:
        """Count the vote on row `first_row + row`; the same vote may be seen again.

        Raises StageError when more rows than `max_unscored_share` allows have no verdict.
        """
        try:
            read_verdict(self.question, completion, self.config)
        except ValueError as error:
            failed = self._failed.setdefault(first_row + row, set())
            if vote in failed:
                return
            failed.add(vote)
            if len(failed) == self.config.votes:
                self.num_unscored += 1
                self._check(str(error))

    def _check(self, last_failure: str) -> None:
        max_share = self.config.max_unscored_share
        if self.num_unscored > max_share * self.num_rows:
            raise StageError(
                f"{self.label}: {self.num_unscored} of {self.num_rows} rows are unscored by "
                f"{self.judge or 'the judge'}, more than max_unscored_share {max_share:g} allows; "
                f"mend that judge or raise max_unscored_share; its last failure: {last_failure}"
            )
