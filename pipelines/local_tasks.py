"""The tasks of a local run, which end with it: told to stop, they save; killed, they die with it.

kfp's runners start a shell that starts the stage; a signal to the run then leaves both behind. Here
the stage takes the shell's place, gets the run's SIGTERM or Ctrl-C as a SIGTERM, and is waited for.
A second signal kills it. A run that is killed itself takes its processes along (Linux only); its
containers are the daemon's, and stay.
"""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from types import FrameType

from kfp.local import subprocess_task_handler

from equilibrate_core.end_with_parent import ended_with_this
from equilibrate_core.scratch_folders import scratch

KFP_START = "_KFP_RUNTIME=true "
LAST_TASK = "record_run"
"""Runs whatever happened, in a run that was told to stop, too."""
TOLD_TO_STOP = 143
"""Exit code of a task that was not started any more; a shell's for SIGTERM."""
Send = Callable[[int], None]


class LocalTasks:
    """What runs now, and whether the run was told to stop."""

    def __init__(self) -> None:
        self.told_to_stop = False
        self._running: dict[Send, int] = {}

    def signal(self, number: int, frame: FrameType | None = None) -> None:
        """Tell the running tasks to stop, the second time kill them; no other is started."""
        send = signal.SIGKILL if self.told_to_stop else signal.SIGTERM
        self.told_to_stop = True
        for task in list(self._running):
            self._tell(task, send)

    @contextlib.contextmanager
    def running(self, send: Send, command: Sequence[str]) -> Generator[None]:
        """Within the block `send` is called with the signals that the run gets."""
        self._running[send] = 0
        if self.refuses(command) and not self._running[send]:  # it came while the task started
            self._tell(send, signal.SIGTERM)
        try:
            yield
        finally:
            del self._running[send]

    def refuses(self, command: Sequence[str]) -> bool:
        """Whether a task may not start any more."""
        return self.told_to_stop and LAST_TASK not in command

    def _tell(self, send: Send, number: int) -> None:
        self._running[send] = number
        send(number)

    def run_process(
        self, full_command: Sequence[str], env_vars: Mapping[str, str] | None = None
    ) -> int:
        """Run one task to its end, print what it prints, and return its exit code.

        Stands in for kfp's run_local_subprocess. Temporary files go with the task: kfp's command
        alone leaves a folder, and a stage that is killed whatever it had.
        """
        if self.refuses(full_command):
            return TOLD_TO_STOP
        with (
            scratch() as temporary,
            subprocess.Popen(
                ended_with_this(without_shell(full_command)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                bufsize=1,
                env={**os.environ, **(env_vars or {}), "TMPDIR": str(temporary)},
                start_new_session=True,  # Ctrl-C reaches the run, which hands it on as a SIGTERM
            ) as process,
        ):
            sweeper = threading.Thread(target=_sweep, args=(process.pid,), daemon=True)
            sweeper.start()
            with self.running(process.send_signal, full_command):
                for line in process.stdout or ():
                    print(line, end="")
                sweeper.join()
                return process.wait()


@contextlib.contextmanager
def local_tasks() -> Generator[LocalTasks]:
    """Within the block kfp's processes are run here, and SIGTERM and Ctrl-C are for them."""
    tasks, before = LocalTasks(), subprocess_task_handler.run_local_subprocess
    subprocess_task_handler.run_local_subprocess = tasks.run_process
    try:
        with _signals_to(tasks):
            yield tasks
    finally:
        subprocess_task_handler.run_local_subprocess = before


def without_shell(command: Sequence[str]) -> list[str]:
    """A task's command whose shell becomes the stage instead of waiting for it."""
    return [part.replace(KFP_START, f"{KFP_START}exec ") for part in command]


@contextlib.contextmanager
def _signals_to(tasks: LocalTasks) -> Generator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, tasks.signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sweep(pid: int) -> None:
    """Kill what a task leaves behind in its session when it ends: else its output never ends."""
    with contextlib.suppress(ChildProcessError):  # waited for already
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
