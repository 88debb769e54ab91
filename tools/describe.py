"""Parameters by part, operations and memory of the models of configs."""
import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prettytable import PrettyTable

    from relay_seg.analysis import Description


def sheet(d: 'Description') -> str:
    """Everything about one model."""
    from prettytable import PrettyTable
    parameters = PrettyTable(['part', 'parameters', '% of model'])
    parameters.align = 'r'
    parameters.align['part'] = 'l'
    for part, count in (*d.parts.items(), ('model', d.parameters)):
        parameters.add_row(
            [part, f'{count:,}', f'{100 * count / d.parameters:.2f}'])
    (height, width), (down, right) = d.window, d.stride
    brought = '' if d.input_size == d.window else (
        ' brought to {} x {}'.format(*d.input_size))
    return '\n'.join([
        d.config, str(parameters),
        f'relay adds {100 * d.relay_share:.2f} % to the backbone',
        f'window {height} x {width}{brought}, {len(d.views)} view(s): '
        f'{d.flops / 1e9:.2f} GFLOPs',
        str(context_costs(d)),
        f'stride {down} x {right}: {d.flops_per_megapixel / 1e9:.1f} GFLOPs '
        'for each megapixel of a large scene',
        f'training step: {d.activation_bytes / 1e6:.1f} MB of activations '
        'for each window, float32'])


def context_costs(d: 'Description') -> 'PrettyTable':
    """What each view costs: GFLOPs of a window, and the share that it adds.

    The backward pass takes twice as much as the forward pass.
    """
    from prettytable import PrettyTable
    rows = PrettyTable([
        'GFLOPs', 'test: backbone', 'neck and head', 'all', '% of local',
        'training step: backbone', 'neck, head, losses', 'in all',
        '% of the local'])
    rows.align = 'r'
    rows.align['GFLOPs'] = 'l'
    before, local = (0, 0, 0, 0), d.costs[0]
    for i, (size, cost) in enumerate(zip(d.views, d.costs)):
        test, training, of_test, of_training = (
            (a - b) / 1e9 for a, b in zip(cost, before))
        rows.add_row([
            '{} view, {} x {}'.format('global' if i else 'local', *size),
            f'{of_test:.2f}', f'{test - of_test:.2f}', f'{test:.2f}',
            f'{1e11 * test / local.test:.0f}', f'{3 * of_training:.2f}',
            f'{3 * (training - of_training):.2f}', f'{3 * training:.2f}',
            f'{1e11 * training / local.training:.0f}'])
        before = cost
    return rows


def overview(descriptions: 'list[Description]') -> str:
    """A line of Markdown for each model."""
    from relay_seg.evaluation.table import as_markdown
    rows = []
    for d in descriptions:
        added = d.parts['backbone: added by relay']
        rows.append([
            f'`{d.config}`', f'{d.backbone_parameters:,}',
            f'{added:,} ({100 * d.relay_share:.2f} %)', f'{d.parameters:,}',
            f'{d.flops / 1e9:.2f}', f'{d.flops_per_megapixel / 1e9:.1f}',
            f'{d.activation_bytes / 1e6:.1f}'])
    return as_markdown(
        ['config', 'parameters of the backbone', 'relay adds',
         'parameters of the model', 'GFLOPs / window', 'GFLOPs / megapixel',
         'MB of activations / window'], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Parameters by part, operations and memory of the models '
        'of configs, the same on every machine. FLOPs are of a test, in '
        'matrix products, convolutions and attention, a multiplication and '
        'an addition being two. Activations are what a training step keeps '
        'for its backward pass, in float32, without weights, gradients and '
        'optimiser.')
    parser.add_argument(
        'configs', nargs='+', type=Path, help='config file, or the word '
        'sample for the small model that comes with relay_seg; several give a '
        'table in Markdown, a line each')
    parser.add_argument(
        '--json', action='store_true', help='a list of all numbers as JSON')
    parser.add_argument(
        '--window', nargs='+', metavar='SIDE', help='height and width of a '
        'window, or one number: native pixels, or metres as 128m')
    parser.add_argument(
        '--input', nargs='+', metavar='SIDE', help='size in pixels to which '
        'a window is brought; by default pixels stay as large as they are')
    parser.add_argument(
        '--size', nargs=2, type=int, metavar=('HEIGHT', 'WIDTH'),
        help='window in pixels, where a config does not say')
    parser.add_argument(
        '--cfg-options', nargs='+', action='extend', default=[],
        help='settings to override, as key=value')
    args = parser.parse_args()  # --help does not wait for imports
    from relay_seg.analysis import describe
    from relay_seg.config import load_config
    from relay_seg.sample_model import sample_model

    found = []
    for path in args.configs:
        if path == Path('sample'):
            path = sample_model()[0]
        if not path.is_file():
            parser.error(f'{path} is no file; give a config.')
        try:
            cfg = load_config(path, args.cfg_options, window=args.window,
                              input_size=args.input)
            found.append(describe(cfg, args.size and tuple(args.size)))
        except ValueError as error:
            parser.error(f'{path}: {error}')
    if args.json:
        print(json.dumps([d.as_dict() for d in found], indent=2))
    elif len(found) == 1:
        print(sheet(found[0]))
    else:
        print(overview(found), end='')


if __name__ == '__main__':
    main()
