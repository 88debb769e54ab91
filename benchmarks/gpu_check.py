"""All that a GPU has to show: is it right, how fast is it, where is time lost.

    python benchmarks/gpu_check.py [OUT]             on a machine with a GPU
    python benchmarks/gpu_check.py [OUT] --smoke     does it run? on a CPU
    python benchmarks/gpu_check.py --tables OUT  into docs/performance_gpu.md

Parts run one after the other in a process that is ended, and started anew for
the rest, when the time of a part is over or it fails. Every result is in
OUT/results.jsonl as soon as it is known, and what the parts print in
OUT/log.txt. Exit code: 0 if all checks passed.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from gpu import records, tables

ROOT = Path(__file__).resolve().parents[1]
PASSED, FAILED, NO_GPU, INTERRUPTED = 0, 1, 3, 130
#: Seconds: until imports are done, between looks, for a part to end itself.
STARTING, LOOKING, ENDING = 120., 0.2, 5.


@dataclass(frozen=True)
class Part:
    """A part of the check.

    Args:
        module: Module in benchmarks/gpu with a function of the part's name.
        limit: Seconds it may take, unless --minutes says otherwise.
        checks: Whether its end without a result is a failure.
    """
    module: str
    limit: float
    checks: bool = False


#: In this order; the last one takes what time is left.
PARTS = {
    'machine': Part('machine', 30),
    'backbones': Part('correctness', 90, checks=True),
    'scenes': Part('correctness', 40, checks=True),
    'trainings': Part('trainings', 110, checks=True),
    'compiling': Part('correctness', 100, checks=True),
    'speed': Part('speed', 120),
    'kernels': Part('speed', 45),
    'predicting': Part('predicting', 75),
    'compiled': Part('speed', 110),
    'evidence': Part('evidence', 480),
}
#: How much longer everything may take on a CPU, in tiny.
SMOKE_PACE = 5.


def run_parts(args: argparse.Namespace) -> int:
    """Run parts in this process, until one fails."""
    import torch
    if not args.smoke and not torch.cuda.is_available():
        return NO_GPU
    from gpu.setting import Setting, reset
    device = 'cpu' if args.smoke else 'cuda'
    raw = {task: Path(folder) for task, folder in args.raw.items()}
    for name in args.part:
        now = time.monotonic()
        limit = args.until - now
        if name != args.part[-1]:
            limit = min(PARTS[name].limit * args.pace, limit)
        tell = partial(records.append, args.out)
        if limit <= 0:
            tell(dict(part=name, kind='end', how='no time was left',
                      seconds=0))
            continue
        tell(dict(part=name, kind='begin', until=now + limit))
        try:
            with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
                setting = Setting(device, args.smoke, Path(scratch),
                                  now + limit)
                getattr(import_module(f'gpu.{PARTS[name].module}'), name)(
                    setting, records.Records(args.out, name),
                    *([raw] if name == 'evidence' else []))
            reset(device)  # fails where a kernel has failed
        except Exception:
            text = traceback.format_exc()
            print(text, flush=True)
            tell(dict(part=name, kind='traceback', text=text[-6000:]))
            return FAILED
        tell(dict(part=name, kind='end', how='done', code=PASSED,
                  seconds=round(time.monotonic() - now, 1)))
    return PASSED


def watch(names: list[str], command: list[str], out: Path,
          env: dict[str, str], starting: float) -> tuple[list[str], int]:
    """Run parts, end one whose time is over, and keep how it ended.

    Args:
        names: Parts that the process runs.
        command: Its words.
        out: Folder of the results.
        env: Its environment.
        starting: Seconds until the first part has begun.

    Returns:
        Parts that are still to be run, in another process, and how this
        process ended; None if it was ended.
    """
    before, start = len(records.read(out)), time.monotonic()
    with (tempfile.TemporaryDirectory() as scratch,
          (out / 'log.txt').open('a') as log):
        log.write(f'\n== {", ".join(names)} ==\n')
        log.flush()
        since = log.tell()
        process = subprocess.Popen(
            [*command, '--scratch', scratch], stdout=log,
            stderr=subprocess.STDOUT, env=env, start_new_session=True)
        code, until, shown = None, start + starting, 0
        try:
            while code is None and time.monotonic() < until:
                try:
                    code = process.wait(LOOKING)
                except subprocess.TimeoutExpired:
                    pass
                found = records.read(out)[before:]
                ends = [r['part'] for r in found if r['kind'] == 'end']
                for name in ends[shown:]:
                    print(tables.line(name, records.read(out)), flush=True)
                shown = len(ends)
                begun = [r for r in found if r['kind'] == 'begin']
                until = begun[-1]['until'] if begun else until
        finally:  # also when this process is interrupted
            end(process)
    if code in (PASSED, NO_GPU):
        return [], code
    last = begun[-1]['part'] if begun else names[0]
    records.append(out, dict(
        part=last, kind='end', code=code,
        how='failed' if code else 'its time was over',
        seconds=round(time.monotonic() - start, 1)))
    if code and not any(r['part'] == last and r['kind'] == 'traceback'
                        and 'name' not in r for r in found):  # by a signal
        with (out / 'log.txt').open(errors='replace') as log:
            log.seek(since)
            records.append(out, dict(part=last, kind='traceback',
                                     text=log.read()[-3000:]))
    print(tables.line(last, records.read(out)), flush=True)
    return names[names.index(last) + 1:], code


def end(process: subprocess.Popen) -> None:
    """End a process and all that it has started."""
    for what, patience in ((signal.SIGTERM, ENDING), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, what)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def run_all(args: argparse.Namespace) -> int:
    """All parts that are asked for, one after the other."""
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    names = [name for name in PARTS if name in (args.parts or PARTS)]
    records.forget(out, names)
    limits = sum(PARTS[name].limit for name in names)
    pace = (60 * args.minutes / limits if args.minutes
            else SMOKE_PACE if args.smoke else 1.)
    until = time.monotonic() + pace * limits - ENDING
    env = os.environ | dict(PYTHONUNBUFFERED='1', PYTHONPATH=os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])))
    if args.smoke:
        env['CUDA_VISIBLE_DEVICES'] = ''
    needed, code = [name for name in names if PARTS[name].checks], None
    try:
        while names:
            names, ending = watch(names, [
                sys.executable, __file__, str(out), '--part', *names,
                '--until', str(until), '--pace', str(pace), '--raw',
                json.dumps(args.raw), *(['--smoke'] if args.smoke else [])],
                out, env, STARTING * pace)
            if ending == NO_GPU:
                print('torch sees no GPU here; --smoke runs on a CPU.',
                      file=sys.stderr)
                return NO_GPU
    except KeyboardInterrupt:
        code = INTERRUPTED
    found = records.read(out)
    print(f'\n{tables.summary(found)}\nResults: {out / records.NAME}')
    if code is None:
        code = PASSED if passed(found, needed) else FAILED
    return code


def passed(found: list[dict], parts: list[str]) -> bool:
    """Whether all checks of some parts were made, and passed."""
    found = [r for r in found if r['part'] in parts]
    done = {r['part'] for r in found
            if r['kind'] == 'end' and r['how'] == 'done'}
    return set(parts) == done and all(
        r['kind'] != 'traceback' and r.get('ok', True) for r in found)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('out', nargs='?', type=Path, default='work_dirs/gpu_check',
        help='folder for the results (%(default)s)')
    add('--smoke', action='store_true', help='the same in tiny, on a CPU')
    minutes = sum(part.limit for part in PARTS.values()) / 60
    add('--minutes', type=float, help='time for everything '
        f'({minutes:g} for all parts by default)')
    add('--parts', nargs='+', choices=list(PARTS), metavar='PART',
        help=f'of {", ".join(PARTS)}; all by default. What OUT holds of '
        'others is kept')
    for name in ('dubai', 'carrot-weed'):
        add(f'--{name}', type=Path, metavar='RAW', help='as in '
            'benchmarks/evidence/run.py, in the place of the sample scenes')
    add('--tables', type=Path, metavar='OUT', help='measure nothing, and '
        'write the tables of what OUT holds into docs/performance_gpu.md')
    add('--part', nargs='+', help=argparse.SUPPRESS)
    for name, kind in (('until', float), ('pace', float),
                       ('raw', json.loads), ('scratch', Path)):
        add(f'--{name}', type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.raw is None:
        given = {'dubai': args.dubai, 'carrot last': args.carrot_weed}
        args.raw = {task: str(path.resolve())
                    for task, path in given.items() if path}
    return args


def main() -> int:
    args = parse_args()
    if args.tables:
        try:
            tables.publish(args.tables)
        except ValueError as error:
            print(error, file=sys.stderr)
            return FAILED
        return PASSED
    if not args.part:
        # As Ctrl-C: the part that runs is ended, and the results are shown.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return run_all(args)
    return run_parts(args)


if __name__ == '__main__':
    sys.exit(main())
