"""Results as lines of JSON: what is written stays, whatever happens next."""
import json
import os
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: All results of a run, in one file: little to carry from machine to machine.
NAME = 'results.jsonl'


def append(out: Path, record: dict) -> None:
    """Add a line to the results; it is on the disk when this returns."""
    line = json.dumps(record, default=float)  # numbers of NumPy and PyTorch
    with (out / NAME).open('a') as file:
        file.write(line + '\n')
        file.flush()
        os.fsync(file.fileno())


def read(out: Path) -> list[dict]:
    """All whole lines; none without a file.

    The last line of a machine that vanished may be cut short.
    """
    path = out / NAME
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def forget(out: Path, parts: Iterable[str]) -> None:
    """Leave out what earlier runs found in some parts."""
    parts = set(parts)
    kept = [r for r in read(out) if r['part'] not in parts]
    unfinished = out / f'.{NAME}.unfinished'
    unfinished.write_text(''.join(json.dumps(r) + '\n' for r in kept))
    unfinished.replace(out / NAME)


class Records:
    """The results of one part.

    Args:
        out: Folder of the results.
        part: Name of the part.
    """

    def __init__(self, out: Path, part: str) -> None:
        self.out, self.part = out, part

    def check(self, name: str, error: float, limit: float,
              why: str) -> None:
        """Whether something is as it should be.

        Args:
            name: What was checked.
            error: How far it is off.
            limit: How far it may be off; NaN never passes.
            why: Where the limit comes from.
        """
        self._add('check', name=name, error=float(error), limit=float(limit),
                  ok=bool(error <= limit), why=why)

    def row(self, table: str, **cells) -> None:
        """A measurement, as a row of a table."""
        self._add('row', table=table, **cells)

    def note(self, **facts) -> None:
        """What else is to be known."""
        self._add('note', **facts)

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Keep the traceback of what fails, and go on after it."""
        try:
            yield
        except Exception:
            self._add('traceback', name=name,
                      text=traceback.format_exc()[-6000:])

    def _add(self, kind: str, **content) -> None:
        append(self.out, dict(part=self.part, kind=kind, **content))
        print(kind, content, flush=True)
