"""Results beside the authors' published numbers, as Markdown and as bars."""
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from textwrap import shorten

from relay_seg.rasters.files import replacing

from .published import METRIC, MODELS, PUBLISHED, differences, training_of

#: Fields of a protocol that results must share to stand in one table. Class
#: names are among them: another set of as many classes is another task.
SHARED = ('dataset', 'split', 'num_scenes', 'classes', 'ignore_index', 'mode',
          'window', 'input_size', 'stride', 'blend', 'flips', 'conversion')
METRICS = METRIC, 'mIoU', 'mF1', 'aAcc'
HEADER = ('data set', 'model', 'published', 'training', METRIC,
          f'{METRIC} - published', *METRICS[1:])
RELEASED = 'released'
INTRODUCTION = """\
All numbers are percent, tested with the protocol of the published numbers.
The authors' table is headed "F1 Score" and their paper speaks of mean IoU;
their code computes the mean IoU over all classes, in which an absent class
counts as 0: compare *published* with mIoU_all. In mIoU and mF1 an absent
class does not count. *training* is `released` for the configs in
`configs/released/`, which train as the authors did; another training stands
in a row of its own that names its config."""
FILL = """\
`python tools/reproduce.py gleason --models rt_swin2_s` trains and tests for
one row, here Gleason and SwinV2-S + relay; without `--models` for the four of
a data set, and with `all` for the whole table.
"""

Cell = tuple[str, tuple[str, bool]]  # data set, (model, relay)


def title(model: tuple[str, bool]) -> str:
    """Name of a model in the table."""
    name, relay = model
    return f'{name} + relay' if relay else name


class Table:
    """Results sorted into the published table and into others.

    Args:
        results: Contents of ``results.json`` by the file's name.

    Raises:
        ValueError: One checkpoint is given twice, or results with the
            published protocol differ in what the authors do not state.
    """

    def __init__(self, results: Mapping[str, dict]) -> None:
        self._refuse_repeats(results)
        #: Results with the published protocol, by training.
        self.cells: dict[Cell, dict[str, list[dict]]] = {}
        #: Other results, by the fields that they share.
        self.others: dict[str, list[dict]] = {}
        first: dict[str, tuple[str, dict]] = {}
        for file, result in results.items():
            protocol = result['protocol']
            model = result['model']['name'], result['model']['relay']
            if model not in MODELS or differences(result):
                key = repr([protocol.get(k) for k in SHARED])
                self.others.setdefault(key, []).append(result)
                continue
            dataset = protocol['dataset']
            other_file, other = first.setdefault(dataset, (file, protocol))
            differ = [k for k in SHARED if protocol.get(k) != other.get(k)]
            if differ:
                raise ValueError(
                    f'{file} and {other_file} are both of {dataset} but '
                    f'differ in {differ} of their protocol; give one table '
                    'results of one protocol.')
            trainings = self.cells.setdefault((dataset, model), {})
            trainings.setdefault(training_of(result), []).append(result)

    @staticmethod
    def _refuse_repeats(results: Mapping[str, dict]) -> None:
        seen: dict[tuple[str, str], str] = {}
        for file, result in results.items():
            key = (result['checkpoint']['sha256'], repr(result['protocol']))
            if key in seen:
                raise ValueError(
                    f'{seen[key]} and {file} are tests of one checkpoint '
                    'with one protocol; give one of them.')
            seen[key] = file

    def markdown(self) -> str:
        """The table, its protocols, other results, how to fill it."""
        text = INTRODUCTION + '\n\n' + self.published_rows(PUBLISHED)
        text += '\n' + self._protocols() + '\n' + FILL
        for other in self.other_tables():
            text += '\n' + other
        return text

    def published_rows(self, datasets: Iterable[str]) -> str:
        """The table of some data sets, in Markdown.

        Args:
            datasets: From :data:`PUBLISHED`.
        """
        rows = [
            [PUBLISHED[dataset].title, title(model), f'{value:.1f}', *cells]
            for dataset in datasets
            for model, value in zip(MODELS, PUBLISHED[dataset].values)
            for cells in self._trainings(dataset, model, value)]
        return as_markdown(HEADER, rows)

    def _trainings(self, dataset: str, model: tuple[str, bool],
                   value: float) -> list[list[str]]:
        """What stands right of a published number: released always first."""
        found: dict[str, list] = {RELEASED: []} | self.cells.get(
            (dataset, model), {})
        rows = []
        for training, runs in sorted(
                found.items(), key=lambda x: (x[0] != RELEASED, x)):
            if not runs:
                rows.append([''] * (len(HEADER) - 3))
                continue
            ours = values_of(runs, METRIC)
            rows.append([
                short(training), spread(runs, METRIC),
                f'{mean(ours) - value:+.1f}' if ours else '',
                *(spread(runs, k) for k in METRICS[1:])])
        return rows

    def other_tables(self) -> list[str]:
        """A table for each other protocol."""
        return [_other_table(group) for group in self.others.values()]

    def _protocols(self) -> str:
        lines = [f'* {p.title}: {protocol_text(p.protocol)}'
                 for p in PUBLISHED.values()]
        return ('Protocols, with context factor 4 where there are relay '
                'tokens:\n\n' + '\n'.join(lines) + '\n')

    def plot(self, path: str | Path) -> None:
        """Draw published and own numbers as bars, a group for a data set.

        Of several other trainings of a model, the best is drawn.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        figure = Figure(figsize=(9, 3.6), layout='constrained')
        axes = FigureCanvasAgg(figure).figure.subplots(
            1, len(PUBLISHED), sharey=True)
        places = range(len(MODELS))
        for ax, (dataset, published) in zip(axes, PUBLISHED.items()):
            heights = [self._heights(dataset, m) for m in MODELS]
            ax.bar([x - 0.27 for x in places], published.values, 0.27,
                   label='published', color='#c8ccd4')
            for i, (label, colour) in enumerate((
                    ('released training', '#2f6fb0'),
                    ('other training', '#9cc3e6'))):
                ax.bar([x + 0.27 * i for x in places],
                       [h[i] or 0. for h in heights], 0.27, label=label,
                       color=colour)
                for x, h in zip(places, heights):
                    text = f'{h[i]:.1f}' if h[i] is not None else (
                        '' if i else 'none')
                    ax.text(x + 0.27 * i, (h[i] or 0.) + 1, text,
                            ha='center', fontsize=7, rotation=90)
            ax.set_title(published.title, fontsize=10)
            ax.set_xticks(places, [title(m).replace(' + ', '\n+ ')
                                   for m in MODELS], fontsize=7, rotation=60)
            ax.spines[['top', 'right']].set_visible(False)
        axes[0].set_ylabel(f'{METRIC} %')
        axes[0].set_ylim(0, 100)
        axes[-1].legend(fontsize=8, frameon=False)
        with replacing(path) as unfinished:
            figure.savefig(unfinished, dpi=150,
                           format=Path(path).suffix[1:] or 'png')

    def _heights(self, dataset: str, model: tuple[str, bool]
                 ) -> tuple[float | None, float | None]:
        """Means of the released training and of the best other one."""
        means = {training: mean(values_of(runs, METRIC))
                 for training, runs in self.cells.get(
                     (dataset, model), {}).items()
                 if values_of(runs, METRIC)}
        return means.pop(RELEASED, None), max(means.values(), default=None)


def values_of(results: Sequence[dict], metric: str) -> list[float]:
    """A metric of several runs, as far as it is defined."""
    values = (r['metrics'].get(metric) for r in results)
    return [v for v in values if v is not None]


def spread(results: Sequence[dict], metric: str) -> str:
    """A metric, or mean and standard deviation of several runs."""
    values = values_of(results, metric)
    if not values:
        return 'undefined'
    if len(values) == 1:
        return f'{values[0]:.1f}'
    return f'{mean(values):.1f} ± {stdev(values):.1f} ({len(values)} runs)'


def short(training: str) -> str:
    """A training in a cell: its first settings, if many were changed."""
    return shorten(training, 120, placeholder=' ...')


def protocol_text(protocol: Mapping) -> str:
    """A protocol in a few words."""
    scenes = protocol['num_scenes']
    words = [f'split {protocol["split"]}' +
             (f' ({scenes} scenes)' if scenes else ''),
             f'{protocol["num_classes"]} classes']
    if protocol['mode'] == 'slide':
        window, stride = (' x '.join(map(str, protocol[k]))
                          for k in ('window', 'stride'))
        words.append(f'window {window}, stride {stride}, blend '
                     f'{protocol["blend"]}')
        if protocol['input_size'] != protocol['window']:
            size = ' x '.join(map(str, protocol['input_size']))
            words.append(f'windows brought to {size}')
        if protocol.get('flips'):
            words.append('windows also flipped')
    else:
        words.append('each scene whole')
    return ', '.join(words)


def _other_table(results: Sequence[dict]) -> str:
    """A table of results that share a protocol among themselves."""
    protocol = results[0]['protocol']
    rows = [[
        short(training_of(r)), r['model']['name'] or '',
        'x'.join(map(str, r['protocol']['context_factors'])),
        'x'.join(map(str, r['protocol']['context_reductions'])),
        *(spread([r], k) for k in METRICS),
        f'`{r["checkpoint"]["sha256"][:8]}`'
    ] for r in results]
    rows.sort()
    differ = sorted({d for r in results for d in differences(r)})
    reason = ('Not the protocol of the published numbers: '
              + '; '.join(differ) if differ else
              'Published protocol, models without published numbers')
    dataset = PUBLISHED.get(protocol['dataset'])
    name = dataset.title if dataset else protocol['dataset']
    return (f'### {name}: {protocol_text(protocol)}\n\n{reason}.\n\n'
            + as_markdown(['training', 'model', 'context factors',
                           'reductions', *METRICS, 'checkpoint'], rows))


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ['---'] * len(header), *rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)
