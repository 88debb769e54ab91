"""What a run found, in lines and in tables of docs/performance_gpu.md."""
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

from . import records

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs/performance_gpu.md'
#: Results that the page shows.
MEASURED = Path(__file__).with_name('measured')
BEGIN, END = '<!-- gpu_check: begin -->', '<!-- gpu_check: end -->'

MODELS = 'RT-ViT-S', 'ViT-S', 'RT-SwinV2-S', 'SwinV2-S'
BATCHES = 8, 32, 64
#: Columns of the tables of speed.
COLUMNS = dict(training=('fp32', 'bf16', 'inductor', 'recorded'),
               prediction=('fp32', 'bf16', 'launched', 'compiled'))
TRAINED = [name + more for family in ('ViT-S', 'SwinV2-T')
           for name, more in ((family, ''),
                              (family, ', trained twice as long'),
                              (f'RT-{family}', ''),
                              (f'RT-{family}', ', neither loss'),
                              (f'RT-{family}', ', lean'))]


def line(part: str, found: Sequence[dict]) -> str:
    """How a part went."""
    own = [r for r in found if r['part'] == part]
    how = next((f'{r["how"]} after {r["seconds"]:.0f} s'
                for r in own if r['kind'] == 'end'), 'not finished')
    checks = [r for r in own if r['kind'] == 'check']
    rows = sum(r['kind'] == 'row' for r in own)
    skipped = [r['skipped'] for r in own if r.get('skipped')]
    return '; '.join([
        f'{part}: {how}',
        *([f'{sum(r["ok"] for r in checks)} of {len(checks)} checks passed']
          if checks else []),
        *([f'{rows} results'] if rows else []), *skipped])


def summary(found: Sequence[dict]) -> str:
    """Tables of a run, and last what went wrong."""
    parts = list(dict.fromkeys(r['part'] for r in found))
    wrong = [f'FAILED {r["name"]}: {r["error"]:.2g}, at most '
             f'{r["limit"]:.2g} ({r["why"]})'
             for r in found if r['kind'] == 'check' and not r['ok']]
    wrong += [f'FAILED {r.get("name", r["part"])}: '
              f'{r["text"].rstrip().splitlines()[-1][:300]}'
              for r in found if r['kind'] == 'traceback' and r['text'].strip()]
    return '\n'.join([block(found), '', *(line(p, found) for p in parts),
                      *wrong])


def block(found: Sequence[dict]) -> str:
    """The tables; what was not measured is left empty."""
    return '\n\n'.join([
        conditions(found),
        'Checks against the CPU; errors of logits, gradients and weights are '
        'relative L2 distances:', checks(found),
        'Training steps, windows on the device already; with bf16 and '
        '`torch.compile` ("inductor"), which also records CUDA graphs with '
        '`mode="reduce-overhead"` ("recorded"). Shares are of the peak of '
        'dense bf16 products:', speed('training', found),
        'Predictions of windows, likewise, as a CUDA graph; "launched" is '
        'bf16 without it, "compiled" bf16 and `torch.compile`:',
        speed('prediction', found),
        'Operators and kernels of attention, launched one by one; the last '
        'column is the time of all kernels without what lies between them:',
        kernels(found),
        'Prediction from file to file of a scene of one block, in windows of '
        '256 pixels every "stride" pixels, and the seconds of its stages; the '
        'last column is the whole command:', files(found),
        'Trainings from random weights, windows of 256 pixels, mIoU and its '
        'deviation:',
        evidence(found)]) + '\n'


def conditions(found: Sequence[dict]) -> str:
    facts = next((r for r in found if r['part'] == 'machine'
                  and r['kind'] == 'note'), None)
    if facts is None:
        return 'Nothing was measured on a GPU yet.'
    rates = [f'{r["tflops"]:.0f} TFLOP/s in {r["dtype"]}' for r in found
             if r.get('table') == 'products']
    peak = (f'{facts["peak"] / 1e12:.0f} TFLOP/s by its data sheet'
            if facts.get('peak') else 'unknown')
    return (f'{facts["line"]}, CUDA {facts.get("cuda")}. Peak in bf16: '
            f'{peak}. Large matrix products: {", ".join(rates)}.')


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(f'| {" | ".join(map(str, x))} |' for x in lines)


def checks(found: Sequence[dict]) -> str:
    return table(['check', 'error', 'at most', 'passed'], [
        [named(r, r['name']), f'{r["error"]:.1e}', f'{r["limit"]:.1e}',
         'yes' if r['ok'] else '**no**']
        for r in found if r['kind'] == 'check'])


def speed(step: str, found: Sequence[dict]) -> str:
    """Windows a second, share of the peak and memory of each model."""
    by = {(r['model'], r['batch'], r['precision']): r
          for r in found if r.get('table') == step}
    head = ['model', 'batch']
    for precision in COLUMNS[step]:
        head += [f'{precision}: windows / s', 'share', 'GiB']
    return table(head, [
        [model, batch, *(cell for precision in COLUMNS[step]
                         for cell in cells(by.get((model, batch,
                                                   precision))))]
        for model in MODELS for batch in BATCHES])


def cells(row: dict | None) -> list[str]:
    """Rate, share and memory of a measurement."""
    if row is None:
        return [''] * 3
    if row.get('out_of_memory'):
        return ['out of memory', '', '']
    share, peak = row.get('share'), row.get('peak_bytes')
    return [f'{row["windows"]:.0f}', f'{share:.0%}' if share else '',
            f'{peak / 2**30:.1f}' if peak else '']


def kernels(found: Sequence[dict]) -> str:
    by = {(r['model'], r['precision'], r['step']): r
          for r in found if r.get('table') == 'kernels'}
    rows = []
    for model in MODELS:
        for precision in ('fp32', 'bf16'):
            for step in ('prediction', 'training'):
                row = by.get((model, precision, step))
                rows.append([named(row, model), precision, step, *(
                    [''] * 6 if row is None else [
                        row['batch'],
                        counted(row['operators']), counted(row['attention']),
                        '' if row['attention_share'] is None
                        else f'{row["attention_share"]:.0%}',
                        row['launched'] or '',
                        f'{row["milliseconds"]:.1f}'
                        if 'milliseconds' in row else ''])])
    return table(['model', 'precision', 'step', 'windows', 'operators',
                  'kernels', 'share of time', 'all kernels', 'ms'], rows)


def named(row: dict | None, name: str) -> str:
    """With the card, where a result was taken over from a run on another."""
    return f'{name} ({row["card"]})' if row and 'card' in row else name


def counted(names: dict[str, int]) -> str:
    """Names, without arguments of templates, and how often each ran."""
    short: dict[str, int] = {}
    for name, count in names.items():
        name = re.split(r'[<(]', name.removeprefix('void ').replace(
            'aten::', ''))[0][:60]
        short[name] = short.get(name, 0) + count
    return ', '.join(f'`{name}` x {count}' for name, count in short.items())


def files(found: Sequence[dict]) -> str:
    by = {(r['table'], r['model'], r['precision']): r
          for r in found if r['kind'] == 'row' and r['part'] == 'predicting'}
    rows = []
    for model in ('RT-SwinV2-S', 'RT-ViT-S'):
        for precision in ('bf16', 'fp32'):
            inner, command = (by.get((name, model, precision)) for name in (
                'predict_raster', 'tools/predict.py'))
            rows.append([
                model, precision, *(
                    [''] * 3 if inner is None else
                    [inner['stride'],
                     f'{inner["megapixels"] / inner["seconds"]:.1f}',
                     ', '.join(f'{name} {seconds:.1f}' for name, seconds
                               in inner['stages'].items())]),
                '' if command is None else
                f'{command["megapixels"] / command["seconds"]:.1f}'])
    return table(['model', 'precision', 'stride', 'MP / s', 'seconds',
                  'MP / s with start'], rows)


def evidence(found: Sequence[dict]) -> str:
    by: dict[tuple[str, str], list[dict]] = {}
    for r in found:
        if r.get('table') == 'evidence':
            by.setdefault((r['task'], r['model']), []).append(r)
    tasks = list(dict.fromkeys(task for task, _ in by)) or ['sample']
    rows = []
    for task in tasks:
        for model in TRAINED:
            runs = by.get((task, model), [])
            scores = [r['mIoU'] for r in runs]
            spread = f' ± {stdev(scores):.1f}' if len(scores) > 1 else ''
            rows.append([task, model, *(
                [f'{mean(scores):.1f}{spread}', len(runs),
                 runs[0]['iterations'],
                 f'{runs[0]["train_flops"] / 1e12:.0f}',
                 f'{runs[0]["pixel_flops"] / 1e3:.0f}'] if runs
                else [''] * 5)])
    return table(['data', 'model', 'mIoU', 'seeds', 'iterations', 'TFLOP',
                  'kFLOP a pixel'], rows)


def page_with(text: str, found: Sequence[dict]) -> str:
    """A page whose marked block shows some results.

    Raises:
        ValueError: The page has no marks.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f'{PAGE} lacks {BEGIN} or {END}.')
    return f'{head}{BEGIN}\n\n{block(found)}\n{END}{tail}'


def publish(out: Path) -> None:
    """Take results over into the checkout, and write the page from them.

    Raises:
        ValueError: There are none, or they are of a smoke run.
    """
    found = records.read(out)
    if not found:
        raise ValueError(f'{out} holds no {records.NAME} with results; give '
                         'the OUT of an earlier run.')
    if any(r.get('smoke') for r in found):
        raise ValueError(f'{out} is of a smoke run, whose numbers say '
                         'nothing; give the OUT of a run on a GPU.')
    MEASURED.mkdir(exist_ok=True)
    shutil.copyfile(out / records.NAME, MEASURED / records.NAME)
    PAGE.write_text(page_with(PAGE.read_text(), found))
