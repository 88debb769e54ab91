"""The experiments: which variants run, on what, and what they are set beside.

Names of variants are those of the tables. ``relay`` models differ from
``plain`` ones as everywhere in configs/.
"""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from puzzle import KINDS, Puzzle, Trial
from runs import Variant
from tasks import TASKS

FAMILIES = {'ViT': 'vit', 'SwinV2': 'swin'}
#: Where ablations and other methods run, and weights are tested with other
#: overlaps.
SHOWN = 'carrot last'
#: Of which pictures are drawn: its licence lets them be published.
PICTURED = 'dubai'


@dataclass(frozen=True)
class RealExperiment:
    """Variants trained on real scenes.

    Args:
        title: Heading in the report.
        words: What is asked, and how it is measured.
        tasks: Names of tasks.
        variants: What is trained on each.
        baseline: Name of the variant that a variant is set beside.
        as_much_work: Plain variants that take about as much work as others.
    """

    title: str
    words: str
    tasks: Sequence[str]
    variants: Sequence[Variant]
    baseline: Callable[[str], str]
    as_much_work: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PuzzleExperiment:
    """Models on scenes that are made up; see :mod:`puzzle`."""

    title: str
    words: str
    trials: Sequence[Trial]


#: Learning rates that are searched, on the validation scenes of this task.
SEARCH_TASK = 'carrot first'
RATES = 1e-3, 2e-3, 4e-3
SEARCH_SEEDS = range(3)


def model(family: str, what: str, name: str | None = None,
          options: Mapping = {}, **more) -> Variant:
    """A variant of ``what``, 'plain' or 'relay', with its learning rate."""
    like = f'{family} {what}' if name else None
    slides = None if name or family != 'SwinV2' else SHOWN
    return Variant(f'{family} {name or what}', f'{what}_{FAMILIES[family]}',
                   options, like=like, slides=slides, **more)


def baseline(name: str, type_: str, **options) -> Variant:
    """A plain SwinV2 config with another segmentor."""
    return Variant(name, 'plain_swin', {'model.type': type_, **options},
                   like='SwinV2 plain')


def factor(k: int) -> dict:
    return {'model.context_factors': (k, ),
            'train_dataloader.dataset.context_factors': (k, )}


#: Half as many windows then: the work of a relay model.
TWICE_THE_SIDE = {'window_times': 2, 'batch_times': 0.5}


def main_variants() -> list[Variant]:
    found = []
    for family in FAMILIES:
        found += [
            model(family, 'plain'),
            model(family, 'relay'),
            model(family, 'plain', 'plain, trained twice as long', passes=2.),
            Variant(f'{family} plain, window twice the side',
                    f'plain_{FAMILIES[family]}', TWICE_THE_SIDE),
        ]
    return found


def other_methods() -> list[Variant]:
    return [
        model('SwinV2', 'plain'),
        model('SwinV2', 'relay'),
        baseline('SwinV2 on the global view', 'GlobalOnly', **factor(4)),
        baseline('SwinV2 twice, logits added', 'DecisionFusion', **factor(4)),
        baseline('SwinV2 on the whole image / 4', 'Reduced', **{
            'model.factor': 4, 'model.test_cfg.mode': 'whole',
            'window_times': 8, 'batch_times': 0.25}),
        Variant('SegFormer-B1', 'segformer_b1', TWICE_THE_SIDE),
        Variant('DeepLabV3+ ResNet-18', 'deeplabv3plus_r18', TWICE_THE_SIDE,
                like='SwinV2 plain'),
    ]


def vit_changes() -> dict[str, dict]:
    """Choices that the models share, changed in one of them."""
    return fusions() | {
        'separate blocks': {'model.backbone.type': 'SeparateViT'},
        'shared embedding': {'model.backbone.type': 'SharedStemViT', **SHARED},
        **{f'R = {r}': {'model.backbone.num_relay_tokens': r}
           for r in (0, 1, 2, 8, 16)},
        **{f'k = {k}': factor(k) for k in (1, 2, 8)},
        'L_global: centre': {
            'model.loss_global': dict(type='GlobalViewLoss', extent='center')},
        'no L_global': {'model.loss_global': None},
        'L_agree: detached target': {
            'model.loss_agree': dict(type='DetachedAgreementLoss')},
        'no L_agree': {'model.loss_agree': None},
        'neither loss': NEITHER,
        **{f'both weights {w}': {
            'model.loss_global': dict(type='GlobalViewLoss', loss_weight=w),
            'model.loss_agree': dict(type='AgreementLoss', loss_weight=w)}
           for w in (0.03, 0.3, 1.)},
        'bf16 autocast': {'optim_wrapper.precision': 'bf16'},
    }


def fusions() -> dict[str, dict]:
    return {
        name: {'model.backbone.fusion': fusion} for name, fusion in {
            'fusion mean': 'mean', 'fusion local first': 'local_first',
            'no fusion, tokens apart': 'apart'}.items()}


def swin_changes() -> dict[str, dict]:
    """Fusion again, and what only SwinV2 has: its position bias."""
    backbone = 'model.backbone.'
    return fusions() | {
        'relay bias zero': {backbone + 'relay_bias': 'zero'},
        'relay bias zero, fusion mean': {
            backbone + 'relay_bias': 'zero', backbone + 'fusion': 'mean'},
        'global coordinates times k': {backbone + 'type': 'ScaledBiasSwinV2'},
    }


#: Only the loss of the local view.
NEITHER = {'model.loss_global': None, 'model.loss_agree': None}
#: A parameter that stands twice is optimised once.
SHARED = {'optim_wrapper.paramwise_cfg.bypass_duplicate': True}


def ablations() -> list[Variant]:
    changes = {'ViT': vit_changes(), 'SwinV2': swin_changes()}
    return [variant for family in FAMILIES for variant in (
        model(family, 'relay'), *(
            model(family, 'relay', f'relay, {name}', options)
            for name, options in changes[family].items()))]


def longer() -> list[Variant]:
    return [model(family, what, f'{what}{more}, trained {times:g} times as '
                  'long', options, passes=times) for family in FAMILIES
            for what, more, times, options in (
                ('plain', '', 4., {}), ('plain', '', 8., {}),
                ('relay', '', 4., {}),
                ('relay', ', neither loss', 4., NEITHER))]


def heads() -> list[Variant]:
    return [model('SwinV2', 'relay'), *(
        model('SwinV2', 'relay', f'relay, UPerHead {c}',
              {'model.decode_head.channels': c}) for c in (128, 512))]


#: Deviation of ViT's position embeddings where several cues are told apart.
POSITIONS = 0.5


def graded() -> list[Trial]:
    """How far, how small, how noisy, how many bits."""
    base = Puzzle()
    cue = replace(base, label='cue')
    pair = 'relay', 'global only'
    trials = []
    for family in FAMILIES:
        for name, puzzle in {
                'both': base, 'cue alone': cue,
                'whether they agree': replace(base, label='agree')}.items():
            trials += [Trial(name, family, kind, puzzle) for kind in KINDS]
        # Noise that is as strong in the global view whatever k is.
        trials += [
            Trial(f'both, k = {k}', family, kind, replace(
                base, factor=k, cue=2 * k, noise=k * base.noise / base.factor))
            for k in (2, 8) for kind in ('relay', 'decision fusion')]
        trials += [Trial(f'cue of {side} pixels', family, kind,
                         replace(cue, cue=side))
                   for side in (2, 4) for kind in pair]
        trials += [Trial(f'cue, noise {high:g}', family, kind,
                         replace(cue, noise=high))
                   for high in (1., 2., 4.) for kind in pair]
        # SwinV2 does not know where a token lies, so one case shows all.
        cases = {2: (4, )} if family == 'SwinV2' else {
            cells: (1, 2, 4, 8, 16) for cells in (2, 4)}
        for cells, numbers in cases.items():
            many = dict(family=family, puzzle=replace(cue, cells=cells),
                        passes=4., positions=POSITIONS)
            if cells == 2:  # the middle of its map has 4 tokens
                trials.append(Trial('4 cues', kind='global only', **many))
            trials += [Trial(f'{cells**2} cues, R = {r}', **many,
                             options=dict(num_relay_tokens=r))
                       for r in numbers]
    trials.append(Trial(
        '4 cues, R = 4, weak positions', 'ViT', passes=4.,
        puzzle=replace(cue, cells=2), options=dict(num_relay_tokens=4)))
    return trials


def puzzle_ablations() -> list[Trial]:
    agree = Puzzle(label='agree')
    fusions = {f'fusion {f}': dict(fusion=f)
               for f in ('mean', 'local_first', 'apart')}
    changes = {
        'ViT': fusions | {
            'separate blocks': dict(type='SeparateViT'),
            'shared embedding': dict(type='SharedStemViT'),
            **{f'R = {r}': dict(num_relay_tokens=r)
               for r in (0, 1, 2, 8, 16)},
        },
        'SwinV2': fusions | {
            'relay bias zero': dict(relay_bias='zero'),
            'relay bias zero, fusion mean': dict(
                relay_bias='zero', fusion='mean'),
            'global coordinates times k': dict(type='ScaledBiasSwinV2'),
        },
    }
    trials = [Trial(f'agree, {name}', family, puzzle=agree, options=options)
              for family in FAMILIES
              for name, options in {'as is': {}, **changes[family]}.items()]
    trials.append(Trial(
        '4 cues, fusion mean', 'ViT', passes=4., positions=POSITIONS,
        puzzle=Puzzle(label='cue', cells=2), options=dict(fusion='mean')))
    return trials


#: Side of an attention window of SwinV2, in tokens: windows of the first map.
WINDOWS = {8: 1, 4: 4, 2: 16}
PLACES = {'': 'none', ' with place': 'bias'}


def place_puzzles() -> list[Trial]:
    """What relay tokens tell of where, with a bias by place and without."""
    agree = Puzzle(label='agree')
    cases = {  # cues: puzzle, options, passes
        1: (Puzzle(label='cue'), {}, 1.),
        4: (Puzzle(label='cue', cells=2), {}, 4.),
        16: (Puzzle(label='cue', cells=4, factor=8),
             dict(num_relay_tokens=16), 4.)}
    # Whether it is learned at all, where it is not in as many steps.
    longer = {'none': {'': 1.}, 'bias': {'': 1., ', 4 x': 4.}}
    trials = []
    for words, place in PLACES.items():
        own = dict(relay_place=place)
        for side, windows in WINDOWS.items():
            name = f'{windows} windows a map{words}'
            trials += [Trial(
                f'{cues} cues, {name}', 'SwinV2', puzzle=puzzle,
                passes=passes, options=dict(window_size=side) | more | own)
                for cues, (puzzle, more, passes) in cases.items()
                if cues < 16 or side == 2]  # sixteen take long
            trials += [Trial(f'agree, {name}{more}', 'SwinV2', puzzle=agree,
                             passes=passes,
                             options=dict(window_size=side) | own)
                       for more, passes in longer[place].items()]
        for family in ('ViT', 'MiT'):
            puzzle, _, passes = cases[4]
            trials += [
                Trial(f'4 cues{words}', family, puzzle=puzzle, passes=passes,
                      options=own),
                *(Trial(f'agree{words}{more}', family, puzzle=agree,
                        passes=passes, options=own)
                  for more, passes in longer[place].items())]
    return trials


def fewer_and_more() -> list[Trial]:
    """Relay tokens in some blocks, more of them, wider views."""
    four = dict(puzzle=Puzzle(label='cue', cells=2), passes=4.)
    blocks = {
        'ViT': {'every second block': [0, 2], 'last half': [1, 2]},
        'SwinV2': {'every second block': [0, 2], 'last half': [2, 3]}}
    own = dict(relay_place='bias')
    trials = []
    for family in FAMILIES:
        trials += [
            Trial(f'4 cues, {words}', family, **four, options=own | dict(
                type=f'Sparse{family}', relay_blocks=numbers))
            for words, numbers in blocks[family].items()]
        trials += [
            Trial(f'4 cues, R = {r}', family, **four,
                  options=own | dict(num_relay_tokens=r)) for r in (2, 4, 16)]
        trials += [
            Trial(f'4 cues, k = {k}', family, passes=4., options=own,
                  puzzle=Puzzle(label='cue', cells=2, factor=k, cue=2 * k,
                                noise=k / 8)) for k in (8, 16)]
    return trials


def place_variants() -> list[Variant]:
    """SwinV2 with several attention windows, with and without place."""
    return [
        Variant(f'SwinV2 relay{words}, 2 x', 'relay_swin',
                {'model.backbone.relay_place': place}, passes=2., rate=0.004)
        for words, place in PLACES.items()]


#: A global view of the same extent with half as many pixels along a side.
HALF = {'model.context_reductions': (8, ),
        'train_dataloader.dataset.context_reductions': (8, )}
PLACED = {'model.backbone.relay_place': 'bias'}


def pareto() -> list[Variant]:
    """mIoU against work: families of models, each in several lengths."""
    found = []
    kinds = {
        'plain': ('plain', {}, (2., 4., 8.)),
        'plain, window twice the side': ('plain', TWICE_THE_SIDE, (4., )),
        'relay as published': ('relay', {}, (2., 4.)),
        'relay, neither loss': ('relay', NEITHER, (2., 4.)),
        'relay with place, neither loss': ('relay', NEITHER | PLACED, (4., )),
        'relay with place, neither loss, half the side': (
            'relay', NEITHER | PLACED | HALF, (2., 4.)),
        'relay, neither loss, half the side': (
            'relay', NEITHER | HALF, (4., )),
        'relay with place, neither loss, k = 8': (
            'relay', NEITHER | PLACED | factor(8), (4., )),
    }
    for family, short in FAMILIES.items():
        rates = dict(plain=0.002, relay=0.002 if family == 'ViT' else 0.004)
        for name, (what, options, lengths) in kinds.items():
            found += [Variant(
                f'{family} {name}, {length:g} x', f'{what}_{short}', options,
                passes=length, rate=rates[what]) for length in lengths]
    found += [Variant(
        f'SwinV2 twice, logits added, {length:g} x', 'plain_swin',
        {'model.type': 'DecisionFusion', **factor(4)}, passes=length,
        rate=0.002) for length in (2., 4.)]
    return found


def worth() -> list[Variant]:
    """Of :func:`pareto`, what is claimed to be ahead at the same work."""
    ends = ('plain, 8 x', 'relay as published, 4 x',
            'relay, neither loss, 4 x', 'logits added, 4 x')
    return [each for each in pareto() if each.name.endswith(ends)]


def family_of(name: str) -> str:
    return name.split()[0].rstrip(',')


EXPERIMENTS = {
    'main': RealExperiment(
        'Plain and relay on real scenes',
        'Does a relay model do better than its plain twin, with as many '
        'iterations, and with as much work? A relay step costs about twice a '
        'plain one, so two plain models that cost as much stand beside it: '
        'one is trained twice as long, the other sees windows of twice the '
        'side, half as many.', tuple(TASKS), main_variants(),
        lambda name: f'{family_of(name)} plain',
        {f'{family} relay': f'{family} plain, trained twice as long'
         for family in FAMILIES}),
    'longer': RealExperiment(
        'The same, trained longer',
        'Plain models gain from more training; does that end, and do relay '
        'tokens gain then? A relay model with four times the iterations '
        'stands beside plain models with as many and with twice as many.',
        (SHOWN, ), longer(),
        lambda name: f'{family_of(name)} plain, trained 4 times as long',
        {f'{family} {what}, trained 4 times as long':
         f'{family} plain, trained 8 times as long' for family in FAMILIES
         for what in ('relay', 'relay, neither loss')}),
    'ablations': RealExperiment(
        'Ablations on a real scene',
        'One choice changed at a time. Choices that the models share are '
        'changed in ViT, whose results vary less from seed to seed. The '
        'lines ViT relay and SwinV2 relay are the defaults: '
        'sequential fusion from the global view to the local one, 4 relay '
        'tokens, learned relay bias, k = 4, shared blocks, separate '
        'embeddings, both losses on the global view with weight 0.1.',
        (SHOWN, ), ablations(), lambda name: f'{family_of(name)} relay'),
    'others': RealExperiment(
        'Other ways to context',
        'What one would pick instead, on the same data and schedule. '
        'DeepLabV3+ and SegFormer see windows of twice the side, half as '
        'many. Where no learning rate stands below, it is that of the plain '
        'SwinV2.', (SHOWN, ), other_methods(), lambda name: 'SwinV2 plain'),
    'heads': RealExperiment(
        'Width of the decode head',
        'The first line has 48 channels.', ('dubai', ), heads(),
        lambda name: 'SwinV2 relay'),
    'place': RealExperiment(
        'A bias by place, on real scenes',
        'Does it cost anything where little depends on it? 400 iterations, '
        'four attention windows on the first map.', tuple(TASKS),
        place_variants(), lambda name: 'SwinV2 relay, 2 x'),
    'pareto': RealExperiment(
        'Is context worth its work?',
        'mIoU against the work of the training and against the work of a '
        'test, a curve for each kind of model: 400 to 1600 iterations.',
        (SHOWN, ), pareto(),
        lambda name: f'{family_of(name)} plain, 4 x',
        {variant.name: f'{family_of(variant.name)} plain, 8 x'
         for variant in pareto() if variant.name.endswith(', 4 x')
         and ' plain, 4 x' not in variant.name}),
    'worth': RealExperiment(
        'The same, with more seeds',
        'Those models of the last table that something is claimed of: relay '
        'models at four times the iterations beside plain ones at eight '
        'times, which take about as much work.',
        (SHOWN, ), worth(), lambda name: f'{family_of(name)} plain, 8 x'),
    'graded': PuzzleExperiment(
        'Graded puzzles',
        'Scenes that are made up. A window is striped along or across, which '
        'only the local view shows; somewhere around it lies a cue, bright '
        'or dark, which only the global view shows. The class is one of four '
        'made of both, the cue alone, or whether the two agree. Where '
        'nothing else is said there is one cue of 8 pixels within k = 4, '
        'noise of half its height, and R = 4; with k = 2 and 8 the cue has 2 '
        'k pixels and the noise grows with k, so that it only lies nearer or '
        'farther. With several cues, window and surroundings are divided '
        'into as many cells, each with a cue of its own, and training is '
        'four times as long; position embeddings of ViT start with a '
        f'deviation of {POSITIONS:g} then, in place of 0.02. Chance is 25 % '
        'for both, else 50 %; who '
        'knows one of two gets 50 % of both, and a sum of what two know at '
        'most 75 % of whether they agree. The last column counts the bits '
        'that reach the local view, from the cells whose cue is mistaken.',
        graded()),
    'puzzle_ablations': PuzzleExperiment(
        'Ablations on the puzzle',
        'One choice changed at a time. Four cues are to be compared with '
        'R = 4 above.',
        puzzle_ablations()),
    'place_puzzles': PuzzleExperiment(
        'Where: a bias by place',
        'One and four cues, and whether detail and surroundings agree, with '
        '1, 4 and 16 attention windows on the first map of SwinV2; sixteen '
        'cues (k = 8, R = 16) with 16 of them. Position embeddings of ViT '
        'start as small as in a new model (0.02).', place_puzzles()),
    'fewer_and_more': PuzzleExperiment(
        'Fewer and more relay tokens, with place',
        'Four cues: relay tokens in some blocks only, fewer and more of '
        'them (R = 4, in all blocks and with k = 4, is the default), and '
        'wider views. Three blocks of ViT, four of SwinV2.',
        fewer_and_more()),
}
#: Inside of the models that experiments left behind; see look.py.
LOOK = 'look'
#: Variants whose learning rates others take.
SEARCHED = {f'{family} {what}': model(family, what)
            for family in FAMILIES for what in ('plain', 'relay')}
