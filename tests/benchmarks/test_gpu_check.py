"""The check of a GPU, on a CPU: what it keeps, finds and shows."""
import json
import os
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import gpu_check
import pytest
import torch
from gpu import correctness, records, setting, speed, tables
from gpu.machine import gpu_facts, peak_of
from mmengine.config import Config
from torch.autograd import DeviceType

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'benchmarks/gpu_check.py'
ENV = os.environ | dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
#: A part that finds something, starts another process, and goes on for ever.
ENDLESS = f"""
import subprocess, sys, time
sys.path.insert(0, {str(ROOT / 'benchmarks')!r})
from pathlib import Path
from gpu.records import Records, append
append(Path({{out!r}}), dict(part='speed', kind='begin',
                             until=time.monotonic() + 2))
Records(Path({{out!r}}), 'speed').row('training', windows=1)
other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])
Path({{out!r}}, 'pid').write_text(str(other.pid))
time.sleep(99)
"""


@pytest.fixture
def tiny(tmp_path):
    return setting.Setting('cpu', True, tmp_path)


def ended(pid):
    """Whether a process is gone; a zombie that nobody waits for is, too."""
    status = Path(f'/proc/{pid}/status')
    return not status.exists() or 'State:\tZ' in status.read_text()


def test_a_part_is_ended_in_time_and_its_results_are_kept(tmp_path):
    start = time.monotonic()
    rest, code = gpu_check.watch(
        ['scenes', 'speed', 'kernels'],
        [sys.executable, '-c', ENDLESS.format(out=str(tmp_path))], tmp_path,
        dict(os.environ), 60)
    assert rest == ['kernels'] and code is None
    assert time.monotonic() - start < 20
    _, row, end = records.read(tmp_path)
    assert row['windows'] == 1 and end['how'] == 'its time was over'
    pid = int((tmp_path / 'pid').read_text())
    for _ in range(50):
        if ended(pid):
            return
        time.sleep(0.1)
    pytest.fail('what the part has started runs on')


def test_a_process_that_never_begins_is_ended(tmp_path):
    rest, code = gpu_check.watch(
        ['speed'], [sys.executable, '-c', 'import time; time.sleep(99)'],
        tmp_path, dict(os.environ), 1)
    end, = records.read(tmp_path)
    assert rest == [] and code is None and end['part'] == 'speed'


def test_a_part_that_is_killed_leaves_what_it_said(tmp_path):
    kill = ('import os, signal; print("so far", flush=True); '
            'os.kill(os.getpid(), signal.SIGSEGV)')
    rest, _ = gpu_check.watch(
        ['speed', 'kernels'], [sys.executable, '-c', kill], tmp_path,
        dict(os.environ), 60)
    assert rest == ['kernels']
    end, last = records.read(tmp_path)
    assert end['how'] == 'failed' and end['code'] == -11
    assert 'so far' in last['text']


def test_a_part_that_fails_leaves_its_traceback(tmp_path, monkeypatch):
    def broken(setting, records):
        records.note(found=1)
        raise RuntimeError('no such kernel')

    monkeypatch.setitem(sys.modules, 'gpu.broken',
                        SimpleNamespace(broken=broken))
    monkeypatch.setitem(gpu_check.PARTS, 'broken',
                        gpu_check.Part('broken', 9, checks=True))
    monkeypatch.setattr(sys, 'argv', [
        'gpu_check.py', str(tmp_path), '--smoke', '--part', 'broken',
        '--until', 'inf', '--pace', '1', '--raw', '{}', '--scratch',
        str(tmp_path)])
    assert gpu_check.main() == gpu_check.FAILED
    _, note, traceback = records.read(tmp_path)
    assert note['found'] == 1 and 'no such kernel' in traceback['text']
    assert not gpu_check.passed(records.read(tmp_path), ['broken'])
    assert 'FAILED broken: RuntimeError' in tables.summary(
        records.read(tmp_path))


def test_one_failure_does_not_stop_a_part(tmp_path):
    found = records.Records(tmp_path, 'scenes')
    with found.attempt('first'):
        raise ValueError('odd')
    found.check('second', 0., 1., 'all is well')
    failure, check = records.read(tmp_path)
    assert failure['name'] == 'first' and 'odd' in failure['text']
    assert check['ok']


def test_results_of_a_machine_that_vanished(tmp_path):
    records.append(tmp_path, dict(part='speed', kind='row'))
    with (tmp_path / records.NAME).open('a') as file:
        file.write('{"part": "spe')
    assert records.read(tmp_path) == [dict(part='speed', kind='row')]
    records.append(tmp_path, dict(part='scenes', kind='row'))


def test_results_after_a_line_that_was_cut_short(tmp_path):
    """The next run drops it: nothing is glued to it."""
    records.append(tmp_path, dict(part='speed', kind='row'))
    with (tmp_path / records.NAME).open('a') as file:
        file.write('{"part": "spe')
    records.forget(tmp_path, ['scenes'])
    records.append(tmp_path, dict(part='scenes', kind='row'))
    assert [r['part'] for r in records.read(tmp_path)] == ['speed', 'scenes']


def test_parts_that_are_run_again_forget_the_old_results(tmp_path):
    for part in ('speed', 'scenes', 'speed'):
        records.append(tmp_path, dict(part=part, kind='row'))
    records.forget(tmp_path, ['speed'])
    assert [r['part'] for r in records.read(tmp_path)] == ['scenes']


DONE = dict(part='a', kind='end', how='done')
GOOD = dict(part='a', kind='check', ok=True)


@pytest.mark.parametrize('found, good', [
    ([GOOD, DONE], True),
    ([GOOD, DONE, dict(part='b', kind='traceback')], True),  # not asked for
    ([GOOD], False),
    ([GOOD, DONE | dict(how='its time was over')], False),
    ([GOOD, dict(GOOD, ok=False), DONE], False),
    ([GOOD, dict(part='a', kind='traceback'), DONE], False),
    ([], False),
])
def test_what_passes(found, good):
    assert gpu_check.passed(found, ['a']) is good


def test_a_number_that_is_none_does_not_pass(tmp_path):
    records.Records(tmp_path, 'a').check('x', float('nan'), 1., 'why')
    assert not records.read(tmp_path)[0]['ok']


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_it_says_so_without_a_gpu(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path], text=True, capture_output=True,
        env=ENV)
    assert done.returncode == gpu_check.NO_GPU
    assert '--smoke' in done.stderr
    assert not records.read(tmp_path)


def checks_of(found):
    return {r['name']: r for r in records.read(found) if r['kind'] == 'check'}


def test_numbers_of_tf32_are_found(tiny, tmp_path, monkeypatch):
    """What a GPU computes where nobody forbids it."""
    monkeypatch.setattr(correctness, 'MODELS', ('RT-ViT-S', ))
    original, calls = correctness.logits_and_gradients, []

    def on_device(model, *rest):
        calls.append(rest)
        if len(calls) == 2:  # the first one is that of the CPU
            with torch.no_grad():
                for p in model.parameters():
                    bits = p.view(torch.int32)
                    bits.bitwise_and_(-(1 << 13))  # 10 bits of a fraction
        return original(model, *rest)

    monkeypatch.setattr(correctness, 'logits_and_gradients', on_device)
    correctness.backbones(tiny, records.Records(tmp_path, 'backbones'))
    found = checks_of(tmp_path)
    assert len(found) == 6
    for what in ('logits', 'gradient'):
        one = found[f'RT-ViT-S: {what}, fp32']
        assert not one['ok'] and one['error'] > 10 * one['limit']
        assert found[f'RT-ViT-S: {what}, bf16']['ok']


def test_a_lost_gradient_is_found(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(correctness, 'MODELS', ('RT-SwinV2-T', ))
    original, calls = correctness.logits_and_gradients, []

    def on_device(*arguments):
        calls.append(arguments)
        found = original(*arguments)
        if len(calls) > 1:
            found['backbone.relay_tokens'] *= 0
        return found

    monkeypatch.setattr(correctness, 'logits_and_gradients', on_device)
    correctness.backbones(tiny, records.Records(tmp_path, 'backbones'))
    found = checks_of(tmp_path)
    assert not found['RT-SwinV2-T: gradient, fp32']['ok']
    assert found['RT-SwinV2-T: logits, fp32']['ok']
    note = next(r for r in records.read(tmp_path) if r['kind'] == 'note')
    assert note['worst_gradient'] == 'backbone.relay_tokens'


def test_another_prediction_is_found(tiny, tmp_path, monkeypatch):
    """One class a little likelier: no tie explains what it takes over."""
    original, calls = correctness.predict_raster, []

    def on_device(model, *rest, **settings):
        calls.append(rest)
        if len(calls) == 2:
            with torch.no_grad():
                model.decode_head.conv_seg.bias[0] += 0.05
        return original(model, *rest, **settings)

    monkeypatch.setattr(correctness, 'predict_raster', on_device)
    correctness.scenes(tiny, records.Records(tmp_path, 'scenes'))
    found = checks_of(tmp_path)
    assert len(found) == 6
    for name, one in found.items():
        assert one['ok'] != name.startswith('predict_raster'), name


def test_every_class_is_predicted_somewhere(tiny):
    model = setting.build(setting.config(tiny, 'RT-SwinV2-T'))
    views = setting.random_views(tiny, 2, model.contexts)
    setting.show_everything(model, views)
    with torch.no_grad():
        ids = model.window_logits(views).argmax(1)
    assert len(ids.unique()) == setting.CLASSES
    assert all(p.numel() == 1 or p.max() > p.min()
               for p in model.parameters())


def test_too_little_memory_is_a_result():
    def hungry():
        raise torch.cuda.OutOfMemoryError('tried to allocate')

    found = speed.measured(hungry, 8, 'cpu')
    assert found == dict(out_of_memory=True)
    assert tables.cells(found)[0] == 'out of memory'


@pytest.fixture
def played_gpu(monkeypatch):
    """What these modules ask of torch.cuda, without a GPU behind it."""
    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = time.perf_counter()

        def elapsed_time(self, end):
            return 1000 * (end.at - self.at)

    for name, answer in dict(
            synchronize=None, empty_cache=None, reset_peak_memory_stats=None,
            max_memory_allocated=2**30, device_count=1,
            get_device_name='NVIDIA H200', get_device_capability=(9, 0),
            get_device_properties=SimpleNamespace(total_memory=2**37),
            ).items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, a=answer: a)
    monkeypatch.setattr(torch.cuda, 'Event', Event)


def test_measuring_on_a_gpu(played_gpu, tmp_path):
    calls = []

    def call():
        calls.append(time.sleep(0.01))

    found = speed.measured(call, 8, 'cuda')
    assert len(calls) > 30  # for some time, three times
    assert 400 < found['slowest'] <= found['windows'] <= found['fastest'] < 801
    assert found['peak_bytes'] == 2**30
    facts = gpu_facts()
    assert facts['peak'] == 989e12 and json.dumps(facts)
    speed.clean_up('cuda')
    runs = setting.Setting('cuda', True, tmp_path)
    work = dict(training=1e12)
    speed.tell(runs, records.Records(tmp_path, 'speed'), 'ViT-S', 'training',
               8, 'bf16', work, call)
    row, = records.read(tmp_path)
    assert row['share'] == pytest.approx(1e12 * row['windows'] / 989e12)


def test_kernels_of_a_gpu():
    def event(key, where, count, spent, annotation=False):
        return SimpleNamespace(
            key=key, device_type=where, count=count,
            self_device_time_total=spent, is_user_annotation=annotation)

    found = speed.summed([
        event('aten::_scaled_dot_product_efficient_attention',
              DeviceType.CPU, 12, 30.),
        event('aten::mm', DeviceType.CPU, 48, 70.),
        event('fmha_cutlassF_bf16_aligned_64x64(Params)', DeviceType.CUDA,
              12, 30.),
        event('sm90_xmma_gemm_bf16', DeviceType.CUDA, 48, 90.),
        event('Optimizer.step#AdamW.step', DeviceType.CUDA, 1, 50., True)])
    assert found['operators'] == {
        'aten::_scaled_dot_product_efficient_attention': 12}
    assert [*found['attention'].values()] == [12]
    assert found['attention_share'] == 0.25 and found['launched'] == 60
    assert found['longest'] == {
        'sm90_xmma_gemm_bf16': 0.75,
        'fmha_cutlassF_bf16_aligned_64x64(Params)': 0.25}


def test_a_profiler_without_a_gpu_to_look_at(played_gpu):
    found = speed.profiled(lambda: torch.ones(2).sum(), 'cuda')
    assert found['launched'] == 0 and found['attention_share'] is None


@pytest.mark.parametrize('name, peak', [
    ('NVIDIA H100 80GB HBM3', 989e12), ('NVIDIA H200', 989e12),
    ('NVIDIA A100-SXM4-80GB', 312e12), ('NVIDIA H100 PCIe', None),
    ('NVIDIA H200 NVL', None), ('NVIDIA H100 80GB HBM3 MIG 1g.10gb', None),
    ('NVIDIA GeForce RTX 4090', None)])
def test_peaks(name, peak):
    assert peak_of(name) == peak


def test_tables_have_a_place_for_all_that_is_measured():
    assert set(tables.MODELS) == set(speed.MODELS)
    assert set(tables.BATCHES) == set(speed.BATCHES)
    assert {(step, column) for step, columns in tables.COLUMNS.items()
            for column in columns} == {
        *product(('training', 'prediction'), speed.PRECISIONS),
        ('prediction', 'launched'),
        *((step, label) for label, (step, _) in speed.COMPILED.items())}


def results():
    """Some of what a run finds."""
    machine = dict(part='machine', kind='note', line='NVIDIA H100, torch 2',
                   smoke=False, cuda='13.0', peak=989e12)
    row = dict(part='speed', kind='row', table='training', model='RT-ViT-S',
               batch=32, precision='bf16', windows=1234.4, share=0.31,
               peak_bytes=3 * 2**30)
    return [
        machine, row, row | dict(batch=64, out_of_memory=True),
        dict(part='scenes', kind='check', name='logits', error=2e-6,
             limit=1e-5, ok=True, why='so'),
        dict(part='kernels', kind='row', table='kernels', model='RT-ViT-S',
             precision='bf16', step='training', batch=8, launched=629,
             milliseconds=12.34,
             operators={'aten::_scaled_dot_product_flash_attention': 24},
             attention={'void flash::kernel<int, 64>(x)': 20,
                        'void flash::kernel<int, 32>(x)': 4},
             attention_share=0.25),
        *(dict(part='evidence', kind='row', table='evidence', seed=seed,
               model='RT-ViT-S', task='sample', mIoU=40. + 2 * seed,
               iterations=400, train_seconds=20. + seed, train_flops=1e15,
               pixel_flops=5e5)
          for seed in range(2))]


def test_the_page_shows_what_was_measured():
    """Nothing but what the command makes of the results in the checkout."""
    page = tables.PAGE.read_text()
    assert page == tables.page_with(page, records.read(tables.MEASURED))
    assert page.count(tables.BEGIN) == 1


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page with an old block, in the place of the real one."""
    page = tmp_path / 'page.md'
    page.write_text(f'Before.\n\n{tables.BEGIN}\nold\n{tables.END}\n\nAfter\n')
    monkeypatch.setattr(tables, 'PAGE', page)
    monkeypatch.setattr(tables, 'MEASURED', tmp_path / 'measured')
    return page


def test_tables_of_a_run(page, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    out.mkdir()
    for record in results():
        records.append(out, record)
    monkeypatch.setattr(sys, 'argv', ['gpu_check.py', '--tables', str(out)])
    assert gpu_check.main() == 0
    text = page.read_text()
    assert text.startswith('Before.') and text.endswith('After\n')
    assert 'old' not in text and 'NVIDIA H100' in text
    assert '| RT-ViT-S | 32 |  |  |  | 1234 | 31% | 3.0 |  |  |  |' in text
    assert '| RT-ViT-S | 64 |  |  |  | out of memory |' in text
    assert '`_scaled_dot_product_flash_attention` x 24' in text
    assert '| `flash::kernel` x 24 | 25% | 629 | 12.3 |' in text
    assert '| sample | RT-ViT-S | 41.0 ± 1.4 | 2 | 400 | 1000 | 500 |' in text
    assert '| ViT-S | 8 |  |  |' in text  # not measured
    assert records.read(tmp_path / 'measured') == results()


def test_a_smoke_run_is_not_published(page, tmp_path, monkeypatch, capsys):
    records.append(tmp_path, results()[0] | dict(smoke=True))
    for out, word in ((tmp_path, 'smoke'), (tmp_path / 'none', 'holds no')):
        monkeypatch.setattr(
            sys, 'argv', ['gpu_check.py', '--tables', str(out)])
        assert gpu_check.main() == gpu_check.FAILED
        assert word in capsys.readouterr().err
    assert 'old' in page.read_text()


@pytest.mark.parametrize('ours, theirs', [
    ('plain_vit_s', 'plain/vit_s_dubai'),
    ('relay_vit_s', 'relay/rt_vit_s_dubai'),
    ('plain_swin_t', 'plain/swin2_t_dubai'),
    ('relay_swin_t', 'relay/rt_swin2_t_dubai')])
def test_models_of_the_trainings_are_those_of_the_configs(ours, theirs):
    one, other = (Config.fromfile(path).model for path in (
        ROOT / f'benchmarks/gpu/configs/{ours}.py',
        ROOT / f'configs/{theirs}.py'))
    backbone = dict(one.backbone)
    if 'window_size' in backbone:  # the experiments have one for each stage
        assert set(backbone.pop('pretrained_window_sizes')) == {0}
        backbone['window_size'], = set(backbone['window_size'])
    assert backbone == other.backbone
    assert one.get('neck') == other.get('neck')
    for key in ('type', 'in_channels', 'in_index', 'channels'):
        assert one.decode_head[key] == other.decode_head[key]


@pytest.mark.slow
def test_smoke_run(tmp_path):
    """All of it on a CPU: no GPU minute is lost to a typing error."""
    scratch = tmp_path / 'scratch'
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / 'out', '--smoke'], text=True,
        capture_output=True, env=ENV | dict(TMPDIR=str(scratch)))
    log = (tmp_path / 'out/log.txt').read_text()
    assert done.returncode == 0, done.stdout + log[-5000:]
    found = records.read(tmp_path / 'out')
    assert {r['part']: r['how'] for r in found if r['kind'] == 'end'} == (
        dict.fromkeys(gpu_check.PARTS, 'done')), done.stdout
    assert not [r for r in found if r['kind'] == 'traceback']
    assert sum(r['kind'] == 'check' for r in found) == 47
    assert {r['table'] for r in found if r['kind'] == 'row'} == {
        'products', 'training', 'prediction', 'kernels', 'predict_raster',
        'tools/predict.py', 'evidence'}
    assert {r['model'] for r in found if r.get('table') == 'evidence'} == (
        set(tables.TRAINED))
    # Columns that are measured on a GPU only stay empty, and no others.
    assert tables.block(found).count('|  |  |  |  |  |  |') == 2 * 4 * 3
    assert [*scratch.glob('tmp*')] == []
    assert json.dumps(found)
