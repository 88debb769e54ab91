"""Run the experiments; each can be interrupted, and skips what is done.

    python benchmarks/evidence/run.py --dubai RAW --carrot-weed RAW
    python benchmarks/evidence/run.py graded            (only one of them)

Writes results.json, table.md and plot.png for each to work_dirs/evidence.
"""
import argparse
import json
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from itertools import chain
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import torch
from experiments import (
    EXPERIMENTS,
    LOOK,
    PICTURED,
    RATES,
    SEARCH_SEEDS,
    SEARCH_TASK,
    SEARCHED,
    SHOWN,
    PuzzleExperiment,
    RealExperiment,
)
from measure import machine
from puzzle import Trial, solve
from report import rounded, write_experiment
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from runs import BUDGETS, Budget, Variant, kept, run
from tables import best_rate, score
from tasks import READERS, TASKS, prepare

from relay_seg.rasters.files import write_text

Job = Callable[[], dict]
TOLD = 30  # seconds between two lines where there is no terminal


def slug(*parts: object) -> str:
    """A file name of letters and digits."""
    return '_'.join(re.sub(r'\W+', '-', str(p)).strip('-') for p in parts)


class Plan:
    """Jobs of experiments, with the folders that remember them."""

    def __init__(self, out: Path, roots: dict[str, Path], budget: Budget,
                 seeds: Sequence[int], steps: int) -> None:
        self.out, self.roots, self.budget = out, roots, budget
        self.seeds, self.steps = seeds, steps

    def searches(self, experiment: RealExperiment) -> Iterator[Job]:
        """Trainings that a choice of learning rates needs."""
        for variant in {v.like or v.name: SEARCHED.get(v.like, v)
                        for v in experiment.variants
                        if v.rate is None}.values():
            yield from chain.from_iterable(
                self.search(variant, lr) for lr in RATES)

    def search(self, variant: Variant, lr: float) -> list[Job]:
        return [self.training(variant, SEARCH_TASK, lr, seed, 'val')
                for seed in SEARCH_SEEDS]

    def scores(self, variant: Variant) -> dict[float, list[float]]:
        """Validation scores of all seeds at each learning rate."""
        variant = SEARCHED.get(variant.like, variant)
        return {lr: [score(job()) for job in self.search(variant, lr)]
                for lr in RATES}

    def rate(self, variant: Variant) -> float:
        """Its own, or that with the best mean validation score."""
        return variant.rate or best_rate(self.scores(variant))

    def trainings(self, experiment: RealExperiment) -> Iterator[Job]:
        for seed in self.seeds:
            for task in experiment.tasks:
                for variant in experiment.variants:
                    yield self.training(
                        variant, task, self.rate(variant), seed, 'test')

    def training(self, variant: Variant, task: str, lr: float, seed: int,
                 split: str) -> Job:
        return partial(run, variant, task, self.roots[TASKS[task].data],
                       self.budget, lr, seed, split,
                       self.folder(variant, task, lr, seed, split))

    def folder(self, variant: Variant, task: str, lr: float, seed: int,
               split: str) -> Path:
        return self.out / 'runs' / slug(task) / slug(
            variant.name, split, lr, seed)

    def folder_of(self, name: str, task: str) -> Path:
        """Where a variant was trained on a task, with seed 0."""
        variant = next(v for e in ('main', 'ablations')
                       for v in EXPERIMENTS[e].variants if v.name == name)
        searched = SEARCHED.get(variant.like, variant)
        if all((self.folder(searched, SEARCH_TASK, lr, seed, 'val')
                / 'results.json').exists()
               for lr in RATES for seed in SEARCH_SEEDS):
            rate = self.rate(variant)
            folder = self.folder(variant, task, rate, 0, 'test')
            if (folder / 'results.json').exists():
                return folder
        raise FileNotFoundError(f'{self.out} holds no trained {name}; run '
                                'main and ablations first.')

    def puzzles(self, experiment: PuzzleExperiment) -> Iterator[Job]:
        for seed in self.seeds:
            for trial in experiment.trials:
                file = self.out / 'puzzles' / (slug(
                    trial.family, trial.kind, trial.name, seed) + '.json')
                request = dict(trial=asdict(trial), seed=seed,
                               steps=self.steps)
                yield partial(kept, file, request, partial(
                    solve_one, trial, seed, self.steps))


def solve_one(trial: Trial, seed: int, steps: int) -> dict:
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    start = time.perf_counter()
    found = solve(trial, seed, steps, device)
    return dict(name=trial.name, family=trial.family, kind=trial.kind,
                seed=seed, seconds=time.perf_counter() - start, **found)


def prepare_worker(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool's owner ends it
    torch.set_num_threads(threads)
    # The host tells what it does at length.
    sys.stdout = open(os.devnull, 'w')
    sys.stderr = sys.stdout


def call(job: Job) -> dict:
    try:
        return job()
    except Exception:  # told once all others are done
        return dict(error=traceback.format_exc())


def work_off(title: str, jobs: Sequence[Job], workers: int) -> list[dict]:
    """Results of jobs, in their order; a bar shows how far they are."""
    results = [None] * len(jobs)
    columns = (TextColumn('{task.description:16}'), BarColumn(),
               MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn(), TextColumn('left'))
    context = multiprocessing.get_context('spawn')
    since = told = time.monotonic()
    with Progress(*columns, refresh_per_second=1) as bar, ProcessPoolExecutor(
            workers, context, prepare_worker,
            (max(1, (os.cpu_count() or 1) // workers), )) as pool:
        task = bar.add_task(title, total=len(jobs))
        places = {pool.submit(call, job): i for i, job in enumerate(jobs)}
        try:
            for future in as_completed(places):
                results[places[future]] = future.result()
                bar.advance(task)
                now, done = time.monotonic(), len(jobs) - results.count(None)
                if not bar.console.is_terminal and now - told > TOLD:
                    told = now
                    left = (now - since) / done * (len(jobs) - done)
                    print(f'{title}: {done} of {len(jobs)}, '
                          f'{timedelta(seconds=round(left))} left', flush=True)
        except KeyboardInterrupt:
            for worker in multiprocessing.active_children():
                worker.terminate()
            bar.stop()
            print(f'{title}: interrupted; the same command goes on where it '
                  'was.')
            sys.exit(130)
    failed = [r['error'] for r in results if 'error' in r]
    if failed:
        sys.exit(f'{failed[0]}\n{len(failed)} of {len(jobs)} runs of {title} '
                 'failed, the first as above; the same command runs these '
                 'again.')
    return results


def run_experiment(name: str, plan: Plan, workers: int) -> None:
    """All runs of one experiment, then its results, table and plot."""
    experiment = EXPERIMENTS[name]
    facts = dict(machine=machine(), workers=workers, seeds=len(plan.seeds))
    if isinstance(experiment, RealExperiment):
        work_off(f'{name}: rates', list(plan.searches(experiment)), workers)
        facts |= dict(budget=asdict(plan.budget), rates={
            v.like or v.name: plan.scores(v) for v in experiment.variants
            if v.rate is None})
        jobs = list(plan.trainings(experiment))
    else:
        facts['steps'] = plan.steps
        jobs = list(plan.puzzles(experiment))
    runs = [{key: x for key, x in one.items() if key != 'request'}
            for one in work_off(name, jobs, workers)]
    write_experiment(plan.out / name, name, dict(facts=facts, runs=runs))
    print(f'{name}: {plan.out / name / "table.md"}')


def look_inside(plan: Plan) -> None:
    from look import look
    out = plan.out / LOOK
    found = look(plan.folder_of, out)
    write_text(out / 'results.json',
                     json.dumps(rounded(found), indent=1) + '\n')
    print(f'{LOOK}: {out}')


def needed_data(names: Sequence[str]) -> list[str]:
    """Data sets that experiments are run on."""
    tasks = set()
    for name in names:
        if name == LOOK:
            tasks |= {SHOWN, PICTURED}
        elif isinstance(EXPERIMENTS[name], RealExperiment):
            tasks |= {SEARCH_TASK, *EXPERIMENTS[name].tasks}
    return [data for data in READERS
            if data in {TASKS[task].data for task in tasks}]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'names', nargs='*', metavar='EXPERIMENT',
        help=f'all by default: {", ".join(EXPERIMENTS)}, {LOOK}')
    parser.add_argument('--dubai', type=Path, metavar='RAW',
                        help='folder of the aerial scenes of Dubai')
    parser.add_argument('--carrot-weed', type=Path, metavar='RAW',
                        help='folder of Carrot-Weed')
    parser.add_argument('--out', type=Path, default='work_dirs/evidence',
                        help='folder for results, checkpoints and scenes')
    parser.add_argument('--budget', choices=BUDGETS, default=(
        'gpu' if torch.cuda.is_available() else 'cpu'),
        help='how much is trained on real scenes; see runs.py')
    parser.add_argument('--seeds', type=int, default=3,
                        help='how many, from 0')
    parser.add_argument('--steps', type=int, default=300,
                        help='of each made-up puzzle')
    parser.add_argument('--workers', type=int, default=(
        1 if torch.cuda.is_available() else os.cpu_count()),
        help='runs at a time; one for each core by default')
    args = parser.parse_args()
    # As Ctrl-C: the workers end, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = args.names or [*EXPERIMENTS, LOOK]
    unknown = set(names) - {*EXPERIMENTS, LOOK}
    if unknown:
        parser.error(f'{sorted(unknown)} are no experiments; use '
                     f'{", ".join(EXPERIMENTS)}, {LOOK}.')
    budget, roots = BUDGETS[args.budget], {}
    needed = needed_data(names)
    for data in needed:
        if getattr(args, data) is None:
            parser.error(f'give --{data.replace("_", "-")}, the folder of '
                         'the download.')
    for data in needed:
        roots[data] = prepare(data, getattr(args, data), args.out,
                              budget.reduce)
    plan = Plan(args.out / args.budget, roots, budget, range(args.seeds),
                args.steps)
    for name in names:
        if name == LOOK:
            look_inside(plan)
        else:
            run_experiment(name, plan, args.workers)


if __name__ == '__main__':
    main()
