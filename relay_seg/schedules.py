"""Schedules of the learning rate that are as long as the training."""
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner

#: Settings of schedules that are steps or numbers of steps.
STEPS = ('begin', 'end', 'total_steps', 'T_max', 'step_size', 'milestones',
         'periods')
#: What a schedule keeps of these once it is built.
BUILT = (*STEPS, 'total_iters', 'cumulative_periods')
FOREVER = 10**6  # an end from here on is none


def run_length(cfg: Config) -> tuple[str, int] | None:
    """How a config counts its training, and how long that is."""
    train_cfg = cfg.get('train_cfg') or {}
    return next(((key, train_cfg[key]) for key in ('max_iters', 'max_epochs')
                 if train_cfg.get(key)), None)


def fit_schedules(cfg: Config, planned: int | None = None) -> None:
    """Let the schedules of a config end with its training.

    Warm-up and decay keep their shares of it. A warm-up of a single
    iteration would never rise and is left out.

    Args:
        cfg: Changed in place.
        planned: Length that the schedules are made for; by default where the
            last one ends that does more than warm up.
    """
    length = run_length(cfg)
    if length is None or not cfg.get('param_scheduler'):
        return
    key, wanted = length
    ends = [end for _, end in _decays(cfg, key) if end < FOREVER]
    planned = planned or max(ends, default=wanted)
    if planned != wanted:
        for schedule in _schedules(cfg):
            for step in STEPS:
                if step in schedule:
                    schedule[step] = _scaled(
                        schedule[step], wanted / planned, schedule)
        MMLogger.get_current_instance().info(
            f'The schedules of the learning rate were made for {planned} '
            f'{key[4:]}; they follow {key}={wanted} now.')
    cfg.param_scheduler = rising(cfg.param_scheduler)


def check_schedules(cfg: Config) -> None:
    """Refuse a training whose learning rate is zero before its end."""
    length = run_length(cfg)
    if length is None:
        return
    key, wanted = length
    for schedule, end in _decays(cfg, key):
        ending = schedule.get('eta_min', schedule.get('end_factor', 0))
        if end < wanted and not ending and schedule.type.split('.')[-1] in (
                'PolyLR', 'CosineAnnealingLR', 'LinearLR'):
            raise ValueError(
                f'{schedule.type} ends at {end} with a learning rate of 0, '
                f'but {key}={wanted}: nothing would be learned from there '
                f'on. Leave out the settings of param_scheduler, which then '
                f'follow {key}, or set end={wanted}.')


def _schedules(cfg: Config) -> list[Any]:
    found = cfg.get('param_scheduler') or []
    return found if isinstance(found, list) else [found]


def _decays(cfg: Config, key: str) -> Iterator[tuple[Any, int]]:
    """Schedules that do more than warm up, in the unit of the training."""
    for schedule in _schedules(cfg):
        if (schedule.get('by_epoch', True) == (key == 'max_epochs')
                and 'monitor' not in schedule and not _warms_up(schedule)):
            yield schedule, schedule.get('end', cfg.train_cfg[key])


def _warms_up(schedule: Any) -> bool:
    kind = schedule['type'].split('.')[-1]
    if kind.startswith('Linear'):
        return schedule.get('start_factor', 1 / 3) < schedule.get(
            'end_factor', 1)
    return kind.startswith('Constant') and schedule.get('factor', 1 / 3) < 1


def rising(schedules: Any, epoch_length: int = 0) -> Any:
    """Settings of schedules without warm-ups of a single iteration.

    Args:
        schedules: A list; others are left as they are.
        epoch_length: Iterations of an epoch, 0 if nobody knows.
    """
    if not isinstance(schedules, list):
        return schedules
    return [s for s in schedules if not (
        isinstance(s, dict) and _warms_up(s)
        and _is_too_short(s, epoch_length))]


def _is_too_short(schedule: Any, epoch_length: int) -> bool:
    factor = 1
    if schedule.get('by_epoch', True):
        if not epoch_length or not schedule.get('convert_to_iter_based'):
            return False
        factor = epoch_length
    begin, end = (int(schedule.get(key, default) * factor)
                  for key, default in (('begin', 0), ('end', FOREVER)))
    return end - begin < 2


def _scaled(value: Any, ratio: float, schedule: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_scaled(x, ratio, schedule) for x in value]
    if value >= FOREVER:
        return value
    # Parts of an epoch are whole iterations.
    return value * ratio if schedule.get('convert_to_iter_based') else round(
        value * ratio)


def lengths(schedules: object) -> list[dict]:
    """When built schedules begin and end."""
    return [{key: vars(s)[key] for key in BUILT if key in vars(s)}
            for s in (schedules if isinstance(schedules, list) else ())]


def follow_new_length(runner: Runner, wanted: list[dict],
                      settings: Any) -> None:
    """Go on with schedules of another length than those of a checkpoint.

    The learning rate becomes what it would be at this iteration if the run
    had been as long from the start.

    Args:
        runner: That has resumed.
        wanted: :func:`lengths` of its own schedules.
        settings: To build these from.

    Raises:
        ValueError: It depends on validations of the past.
    """
    schedules: Any = runner.param_schedulers
    found = lengths(schedules)
    if found == wanted or all(
            old == new or s._global_step >= max(old['end'], new['end'])
            for s, old, new in zip(schedules, found, wanted)):
        return
    if any(getattr(s, 'need_val_args', False) for s in schedules):
        raise ValueError(
            f'the checkpoint has schedules that end at '
            f'{[x["end"] for x in found]}, this run at '
            f'{[x["end"] for x in wanted]}, and one that follows the '
            'validations: they cannot be done again. Resume with the length '
            'of before, or start a new run with load_from.')
    optimizer: Any = runner.optim_wrapper
    before = optimizer.param_groups[0]['lr']
    for group in optimizer.param_groups:
        for name in {s.param_name for s in schedules}:
            group[name] = group[f'initial_{name}']
    runner.param_schedulers = again = runner.build_param_scheduler(
        settings)
    optimizer._global_step = 0  # it has made steps
    for schedule in again:
        done = runner.epoch if schedule.by_epoch else runner.iter
        for _ in range(done):
            schedule.step()
    runner.logger.info(
        f'Schedules of the checkpoint end at {[x["end"] for x in found]}, '
        f'those of this run at {[x["end"] for x in wanted]}: the learning '
        f'rate goes on at {optimizer.param_groups[0]["lr"]:.3g}, it was '
        f'{before:.3g}.')
