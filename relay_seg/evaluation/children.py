"""Long commands, one after another, that end when this process is ended."""
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

#: Seconds that a command gets to end; torchrun gives its processes 30.
GRACE = 60.
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class Interrupted(Exception):
    """This process was asked to end.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Children:
    """Runs commands, each in a session of its own.

    So Ctrl-C reaches only this process, which ends the command and all that
    the command started. Made by :func:`ending_children`.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._process: subprocess.Popen | None = None
        self._timer: threading.Timer | None = None

    def check(self) -> None:
        """Raise :class:`Interrupted` if this process was asked to end."""
        if self._asked is not None:
            raise Interrupted(self._asked)

    def run(self, command: Sequence[str], log: Path,
            env: Mapping[str, str] | None = None,
            show: Callable[[str], None] = lambda line: None,
            keep_open: Sequence[int] = ()) -> int:
        """Run a command to its end; append what it says to a log.

        Args:
            command: Program and arguments.
            log: File, made where it is missing.
            env: Environment; None for that of this process.
            show: Gets each line.
            keep_open: File descriptors that the command inherits.

        Returns:
            Its exit code.

        Raises:
            Interrupted: This process was asked to end, and the command did
                not come to its own end before.
        """
        self.check()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open('a', buffering=1) as file, subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors='replace',
                env=env, start_new_session=True,
                pass_fds=keep_open) as process:
            self._process = process
            try:
                if self._asked is not None:  # between check and Popen
                    self._end()
                for line in process.stdout or ():
                    file.write(line)
                    show(line)
            except BaseException:
                self._end()
                raise
            finally:
                process.wait()
                self._process = None
                if self._timer:
                    self._timer.cancel()
        if process.returncode:
            self.check()
        return process.returncode

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Handler of a signal; the first one counts."""
        if self._asked is None:
            self._asked = number
            self._end()

    def _end(self) -> None:
        if self._process is None:
            return
        _signal_group(self._process, signal.SIGTERM)
        self._timer = threading.Timer(
            GRACE, _signal_group, (self._process, signal.SIGKILL))
        self._timer.daemon = True
        self._timer.start()


@contextmanager
def ending_children() -> Iterator[Children]:
    """Children that end with this process, on Ctrl-C, SIGTERM and SIGHUP.

    A signal that this process was told to ignore, as by nohup, stays so.
    """
    children = Children()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            if before[number] != signal.SIG_IGN:
                signal.signal(number, children.ask)
        yield children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal_group(process: subprocess.Popen, number: int) -> None:
    if process.returncode is not None:  # its id may be another's by now
        return
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
