"""How fast models train and predict, in which precision, with which kernels.

Windows are random and on the device already: reading them is measured by
other benchmarks.
"""
import gc
import re
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from statistics import median

import torch
from measure import seconds
from mmengine.optim import build_optim_wrapper
from mmseg.structures import SegDataSample
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from relay_seg.analysis import counted_flops
from relay_seg.inference.forward import Forward, forget
from relay_seg.segmentors.slide import SlideEncoderDecoder
from relay_seg.views import Views

from .correctness import DTYPES, compilers
from .machine import peak_of
from .records import Records
from .setting import Setting, build, config, random_labels, random_views

MODELS = 'RT-ViT-S', 'ViT-S', 'SwinV2-S', 'RT-SwinV2-S'
#: What matters most comes first: the time may not be enough for all.
BATCHES, PRECISIONS = (32, 64, 8), ('bf16', 'fp32')
#: What is compiled, by its column: a step, and a mode of torch.compile.
COMPILED = dict(inductor=('training', None),
                compiled=('prediction', None),
                recorded=('training', 'reduce-overhead'))
SECONDS, ROUNDS = 0.25, 3  # of one measurement
#: Kernels and operators of attention, by their names.
ATTENTION = re.compile(r'flash|fmha|sdpa|attention', re.I)


class Runs:
    """A model on the device with what it is given.

    Args:
        setting: Setting of the part.
        model: Model on the CPU; it stays there when all is done.
        batch: Windows in a batch.
        precision: Name of a precision.
    """

    def __init__(self, setting: Setting, model: SlideEncoderDecoder,
                 batch: int, precision: str) -> None:
        self.device, self.batch = setting.device, batch
        self.precision = precision
        self.model = model.to(self.device)
        self.views: Views = tuple(
            view.to(self.device)
            for view in random_views(setting, batch, model.contexts))
        self.labels = random_labels(
            setting, batch, model.contexts, self.device)

    def training(self, loss_of: Callable | None = None
                 ) -> Callable[[], None]:
        """A step, as the runner takes it."""
        self.model.train()
        cfg = self.model.cfg.optim_wrapper.copy()
        cfg.precision = self.precision
        wrapper = build_optim_wrapper(self.model, cfg)
        loss_of = loss_of or partial(loss, self.model)

        def step() -> None:
            with wrapper.optim_context(self.model):
                value = loss_of(self.views, self.labels)
            wrapper.update_params(value)

        return step

    def prediction(self, **how) -> Callable[[], None]:
        """Logits of all windows, as scenes are predicted."""
        self.model.eval()
        forward = Forward(
            self.model, tuple(self.views[0].shape[-2:]), self.batch,
            DTYPES[self.precision], **how)
        return torch.no_grad()(partial(forward, self.views))

    def compiled(self, backend: str) -> Callable[[], None]:
        """The same, compiled."""
        self.model.eval()
        logits_of = torch.compile(self.model.window_logits, backend=backend)
        dtype = DTYPES[self.precision]

        def step() -> None:
            with torch.no_grad(), torch.autocast(
                    self.device, dtype, enabled=dtype is not None):
                logits_of(self.views)

        return step


def loss(model: SlideEncoderDecoder, views: Views,
         labels: list[SegDataSample]) -> torch.Tensor:
    return model.parse_losses(model.loss(views, labels))[0]


def flops(setting: Setting, model: SlideEncoderDecoder) -> dict[str, float]:
    """Operations for a window; a backward pass counts as two forward."""
    views = random_views(setting, 2, model.contexts)
    labels = random_labels(setting, 2, model.contexts)
    model.eval()
    return dict(
        training=3 * counted_flops(
            model, partial(model.loss, views, labels)) / 2,
        prediction=counted_flops(
            model, partial(model.window_logits, views)) / 2)


def measured(call: Callable[[], None], batch: int, device: str) -> dict:
    """Windows a second, and the most memory that the device gave out.

    A device without enough memory is a result.

    Args:
        call: A step.
        batch: Windows in a step.
        device: 'cuda' or 'cpu'.
    """
    found = None
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    try:
        for _ in range(3):  # chooses kernels, records
            call()
        once = min(seconds(call, device) for _ in range(2))
        count = max(1, round(SECONDS / once)) if device == 'cuda' else 1

        def several() -> None:
            for _ in range(count):
                call()

        times = [seconds(several, device) / count for _ in range(ROUNDS)]
        found = dict(
            windows=batch / median(times), slowest=batch / max(times),
            fastest=batch / min(times))
    except torch.cuda.OutOfMemoryError:
        pass
    if found is None:  # not above: the exception keeps tensors alive
        return dict(out_of_memory=True)
    if device == 'cuda':
        found['peak_bytes'] = torch.cuda.max_memory_allocated()
    return found


def clean_up(device: str) -> None:
    gc.collect()
    if device == 'cuda':
        torch.cuda.empty_cache()


def jobs(setting: Setting) -> Iterator[tuple[str, int]]:
    """Precisions and batches, the most important first."""
    for precision in PRECISIONS:
        for batch in (2, ) if setting.smoke else BATCHES:
            yield precision, batch


def speed(setting: Setting, records: Records) -> None:
    """Windows a second of training steps and of predictions."""
    torch.backends.cudnn.benchmark = True  # as in the configs
    models = {name: build(config(setting, name)) for name in MODELS}
    work = {name: flops(setting, model) for name, model in models.items()}
    for precision, batch in jobs(setting):
        for name, model in models.items():
            runs = Runs(setting, model, batch, precision)
            calls = {('training', precision): runs.training,
                     ('prediction', precision): runs.prediction}
            if precision == 'bf16':
                calls['prediction', 'launched'] = partial(
                    runs.prediction, cuda_graph=False)
            for (step, label), call in calls.items():
                if setting.is_over:
                    return
                with records.attempt(f'{name}, {step}, {batch}, {label}'):
                    tell(setting, records, name, step, batch, label,
                         work[name], call())
                forget(model)
                clean_up(setting.device)
            model.zero_grad()
            model.to('cpu')


def tell(setting: Setting, records: Records, name: str, step: str,
         batch: int, precision: str, work: dict[str, float],
         call: Callable[[], None], **more) -> None:
    """Measure, and keep the result with its share of the device's peak."""
    found = measured(call, batch, setting.device) | more
    if 'windows' in found:
        rate = work[step] * found['windows']
        found['tflops'] = rate / 1e12
        peak = (peak_of(torch.cuda.get_device_name(0))
                if setting.device == 'cuda' else None)
        found['share'] = rate / peak if peak else None
    records.row(step, model=name, batch=batch, precision=precision, **found)


def compiled(setting: Setting, records: Records) -> None:
    """The same, compiled, as far as the time goes: compiling takes most."""
    if not any(compilers()):
        records.note(skipped='torch.compile needs a C compiler; there is '
                     'none.')
        return
    torch.backends.cudnn.benchmark = True
    models = {name: build(config(setting, name)) for name in MODELS}
    if setting.smoke:
        models = dict([*models.items()][:1])
    for batch in (2, ) if setting.smoke else BATCHES:
        for name, model in models.items():
            for label in COMPILED:
                with records.attempt(f'{name}, {label}, {batch}'):
                    compile_one(setting, records, name, model, label, batch)
                model.zero_grad()
                model.to('cpu')
                clean_up(setting.device)


def compile_one(setting: Setting, records: Records, name: str,
                model: SlideEncoderDecoder, label: str, batch: int) -> None:
    """Compile a step for one size of batch, and measure it."""
    work = flops(setting, model)
    runs = Runs(setting, model, batch, 'bf16')
    torch.compiler.reset()
    step, mode = COMPILED[label]
    if step == 'prediction':
        call = runs.compiled(setting.backend)
    else:
        call = runs.training(torch.compile(
            partial(loss, model), backend=setting.backend,
            mode=None if setting.smoke else mode))
    start = time.perf_counter()
    call()
    took = time.perf_counter() - start
    tell(setting, records, name, step, batch, label, work, call,
         compile_seconds=took)


def kernels(setting: Setting, records: Records) -> None:
    """Which kernels attention ran in, and how many a step launches."""
    for name in reversed(MODELS):
        model = build(config(setting, name))
        for precision in PRECISIONS:
            runs = Runs(setting, model, 2 if setting.smoke else BATCHES[0],
                        precision)
            for step, make in (
                    ('training', runs.training),
                    ('prediction', partial(
                        runs.prediction, cuda_graph=False))):
                if setting.is_over:
                    return
                with records.attempt(f'{name}, {precision}, {step}'):
                    call = make()
                    call()
                    records.row(
                        'kernels', model=name, precision=precision, step=step,
                        batch=runs.batch, **profiled(call, setting.device))
            model.zero_grad()
            model.to('cpu')
            clean_up(setting.device)


def profiled(call: Callable[[], None], device: str) -> dict:
    """Operators and kernels of attention in one call."""
    activities = [ProfilerActivity.CPU]
    if device == 'cuda':
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as found:
        call()
        if device == 'cuda':
            torch.cuda.synchronize()
    return summed(found.key_averages())


def summed(averages: Iterable) -> dict:
    """What events of the profiler, one for each name, say together."""
    averages = [*averages]
    # Annotations, such as that of the optimiser, span kernels.
    launched = [e for e in averages if e.device_type == DeviceType.CUDA
                and not e.is_user_annotation]
    total = sum(e.self_device_time_total for e in launched)
    inside = [e for e in launched if ATTENTION.search(e.key)]
    return dict(
        operators={e.key: e.count for e in averages
                   if e.device_type == DeviceType.CPU
                   and '_scaled_dot_product' in e.key},
        attention={e.key: e.count for e in inside},
        attention_share=sum(e.self_device_time_total for e in inside)
        / total if total else None,
        launched=sum(e.count for e in launched), milliseconds=total / 1e3,
        longest={e.key[:120]: e.self_device_time_total / total
                 for e in sorted(launched, reverse=True, key=lambda e:
                                 e.self_device_time_total)[:8]}
        if total else {})
