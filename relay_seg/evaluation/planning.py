"""Which runs the published table needs, and the commands of each."""
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .published import PUBLISHED, Published, label_differences
from .results import strict_json

#: Of the authors; further runs count up from it.
SEED = 42
#: The checkpoint that a run tests.
BEST = 'best_aAcc_epoch_*.pth'
BY_NAME = {p.name: p for p in PUBLISHED.values()}

#: Of a smoke run: windows of 64 pixels, two steps from random weights.
SMOKE_ARGUMENTS = '--window', '64', '--input', '64'
SMOKE_OPTIONS = (
    'train_dataloader.batch_size=2',
    'train_dataloader.sampler.coverage=None',
    'train_dataloader.sampler.samples_per_epoch=4',
    'train_cfg.max_epochs=1',
    'default_hooks.logger.interval=1',
    *(f'{split}_dataloader.{key}' for split in ('train', 'val', 'test')
      for key in ('num_workers=0', 'persistent_workers=False')))


@dataclass(frozen=True)
class RunSettings:
    """What is the same for all runs.

    Args:
        root: Folder that holds tools/, configs/ and data_prep/.
        out: Folder of all runs and of the table.
        gpus: Processes that train and test together.
        data_root: A converted data set, or the folder that holds such by
            name; None for what the configs say, ``data/``.
        cfg_options: Settings to override in each config, as key=value.
        smoke: On generated scenes, as short as can be.
    """
    root: Path
    out: Path
    gpus: int = 1
    data_root: Path | None = None
    cfg_options: tuple[str, ...] = ()
    smoke: bool = False

    @property
    def runs(self) -> Path:
        """Folder of the runs: those of a smoke never lie beside others."""
        return self.out / 'smoke' if self.smoke else self.out

    def data_of(self, published: Published) -> Path:
        """Folder of a converted data set."""
        if self.smoke:
            return self.runs / published.name / 'data'
        root = self.data_root or Path('data')
        if (root / 'manifest.json').is_file():
            return root
        return root / published.name


@dataclass(frozen=True)
class Run:
    """One training and the test of its best checkpoint.

    Args:
        published: Data set.
        model: Name in configs/released/.
        seed: Seed of the training.
        folder: Work dir of both.
    """
    published: Published
    model: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Short name."""
        return f'{self.published.name}/{self.model}/seed{self.seed}'


def plan(settings: RunSettings, names: Sequence[str], models: Sequence[str],
         seeds: int) -> list[Run]:
    """Runs in order: the first seed of all, then the second, ...

    Args:
        settings: What is the same for all.
        names: Data sets.
        models: Names in configs/released/.
        seeds: Runs of each.
    """
    return [
        Run(BY_NAME[name], model, seed,
            settings.runs / name / model / f'seed{seed}')
        for seed in range(SEED, SEED + seeds)
        for name in dict.fromkeys(names) for model in dict.fromkeys(models)]


def config_of(run: Run, settings: RunSettings) -> Path:
    """Config of a run."""
    name = f'{run.model}_{run.published.name}.py'
    return settings.root / 'configs' / 'released' / name


def training_command(run: Run, settings: RunSettings) -> list[str]:
    """Command that trains, or goes on with a training."""
    start = _start('train', settings, [str(config_of(run, settings))])
    return [*start, '--work-dir', str(run.folder), '--seed', str(run.seed),
            '--resume', *(('--pretrained', 'none') if settings.smoke else ()),
            *_overrides(run, settings)]


def testing_command(run: Run, settings: RunSettings,
                 checkpoint: Path) -> list[str]:
    """Command that tests a checkpoint."""
    start = _start('test', settings,
                   [str(config_of(run, settings)), str(checkpoint)])
    return [*start, '--work-dir', str(run.folder),
            *_overrides(run, settings)]


def _start(task: str, settings: RunSettings, what: list[str]) -> list[str]:
    tools = settings.root / 'tools'
    if settings.gpus > 1:  # through bash: a wheel need not keep modes
        return ['bash', str(tools / f'dist_{task}.sh'), *what,
                str(settings.gpus)]
    return [sys.executable, str(tools / f'{task}.py'), *what]


def _overrides(run: Run, settings: RunSettings) -> list[str]:
    options = []
    if settings.smoke or settings.data_root:
        data = settings.data_of(run.published)
        options += [f'{split}_dataloader.dataset.data_root={data}'
                    for split in ('train', 'val', 'test')]
    if settings.smoke:
        options += SMOKE_OPTIONS
    options += settings.cfg_options
    return [*(SMOKE_ARGUMENTS if settings.smoke else ()),
            *(('--cfg-options', *options) if options else ())]


def prepare_commands(published: Published,
                     settings: RunSettings) -> list[list[str]]:
    """Commands that generate raw scenes for a smoke run and convert them."""
    raw = str(settings.runs / published.name / 'raw')
    return [[sys.executable, str(settings.root / 'data_prep/generated_raw.py'),
             published.name, raw],
            convert_command(published, settings, raw)]


def convert_command(published: Published, settings: RunSettings,
                    raw: str = 'RAW_FOLDER') -> list[str]:
    """Command that converts a download for the published numbers."""
    script = settings.root / 'data_prep' / f'{published.name}.py'
    return [sys.executable, str(script), raw,
            str(settings.data_of(published)), *published.convert,
            *(('--jobs', '1') if settings.smoke else ())]


def environment(settings: RunSettings) -> dict[str, str]:
    """Of the commands: ``python`` in tools/*.sh is this Python."""
    first = str(Path(sys.executable).parent)
    return os.environ | dict(
        PATH=os.pathsep.join([first, os.environ.get('PATH', os.defpath)]),
        PYTHONUNBUFFERED='1')


def as_text(command: Sequence[str], settings: RunSettings) -> str:
    """A command to be pasted into a shell, patterns left to the shell."""
    words = [shlex.quote(word) for word in command]
    words = [f'{shlex.quote(word[:-len(BEST)])}{BEST}'
             if word.endswith(BEST) else quoted
             for word, quoted in zip(command, words)]
    if command[0] == 'bash':
        python = shlex.quote(str(Path(sys.executable).parent))
        words.insert(0, f'PATH={python}:"$PATH"')
    return ' '.join(words)


def commands_text(runs: Sequence[Run], settings: RunSettings) -> str:
    """Everything that would be run, as a shell script."""
    lines, prepared = [], set()
    for run in runs:
        lines.append(f'# {run.name}')
        commands = []
        if settings.smoke and run.published.name not in prepared:
            prepared.add(run.published.name)
            commands += prepare_commands(run.published, settings)
        commands += [training_command(run, settings),
                     testing_command(run, settings, run.folder / BEST)]
        lines += [as_text(command, settings) for command in commands]
    return '\n'.join(lines) + '\n'


def data_problem(published: Published, settings: RunSettings) -> str | None:
    """What keeps a data set from being trained on, with the remedy.

    Returns:
        A sentence; None if all is well.
    """
    folder = settings.data_of(published)
    path = folder / 'manifest.json'
    remedy = as_text(convert_command(published, settings), settings)
    if not path.is_file():
        return (f'{published.title}: {path} does not exist. Convert the '
                f'download with\n  {remedy}\nor say with --data-root where '
                'the converted data are.')
    try:
        manifest = json.loads(path.read_text())
        dataset, splits = manifest['dataset'], manifest['splits']
    except (ValueError, KeyError, TypeError) as error:
        return (f'{published.title}: {path} cannot be read ({error}); delete '
                f'it and convert again with\n  {remedy}')
    if dataset != published.name:
        return (f'{published.title}: {path} is of {dataset}; give a '
                f'--data-root that holds {published.name}.')
    if (folder / 'manifest.journal').is_file():
        return (f'{published.title}: {folder} is not converted to its end; '
                f'go on with\n  {remedy}')
    if published.name == 'gleason':
        differ = label_differences(manifest['options'], None)
        if differ:
            return (f'{published.title}: {folder} has {"; ".join(differ)}. '
                    f'Convert again with\n  {remedy}\nor to another folder, '
                    'and name that with --data-root.')
    wanted = published.protocol['num_scenes']
    split = published.protocol['split']
    listed = folder / f'{split}.txt'
    found = (len(listed.read_text().split()) if listed.is_file()
             else splits.get(split, 0))
    if wanted and found != wanted:
        return (f'{published.title}: {folder} has {found} scenes of {split}, '
                f'the published numbers are of {wanted}. Complete the '
                f'download and convert it with\n  {remedy}')
    return None


def options_of(run: Run, settings: RunSettings) -> dict:
    """What must not change while a run goes on."""
    from mmengine.config import Config
    config = config_of(run, settings)
    manifest = settings.data_of(run.published) / 'manifest.json'
    return dict(
        config=config.name,
        config_sha256=_digest(strict_json(
            Config.fromfile(config).to_dict()).encode()),
        data_sha256=_digest(manifest.read_bytes()),
        seed=run.seed, gpus=settings.gpus,
        cfg_options=list(settings.cfg_options))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
