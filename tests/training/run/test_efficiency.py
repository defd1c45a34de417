"""Operations per second, the share of a card's peak, and energy of a tick."""

import math
import sys
import types

import pytest
import torch

from tests.dnnlib.test_energy import Driver, add_zone, set_counter
from tests.small_runs import write_images
from torch_utils.card_peaks import CARD_PEAKS, peak_of
from torch_utils.distributed import World
from training.options import Options, build_config, open_training_set
from training.run import efficiency
from training.run.efficiency import Efficiency, status_fields
from training.work import image_work

CARD = 'NVIDIA A100-SXM4-80GB'


@pytest.fixture(scope='module')
def dataset_and_config(tmp_path_factory):
    """Function: device and options → configuration; and the dataset."""
    data = str(write_images(tmp_path_factory.mktemp('data') / 'data'))
    common = dict(outdir='runs', data=data, batch=8, cfg='auto', cbase=64, cmax=8)
    dataset = open_training_set(Options(**common))
    yield dataset, lambda device, **more: build_config(Options(**common, **more), dataset, device, 1)
    dataset.close()


def world_of(device):
    return World(rank=0, size=1, device=torch.device(device))


@pytest.fixture
def card(monkeypatch):
    """Make PyTorch say that there is a card with a name and a UUID; set its name to change it."""
    properties = types.SimpleNamespace(name=CARD, uuid='1234')
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device=None: properties.name)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device=None: properties)
    monkeypatch.setitem(sys.modules, 'pynvml', None)
    return properties


def test_speed_on_a_cpu(dataset_and_config, monkeypatch, tmp_path):
    dataset, config_of = dataset_and_config
    zone = add_zone(tmp_path, 'intel-rapl:0', 'package-0', 0)
    monkeypatch.setattr(efficiency, 'ProcessorEnergy', lambda: efficiency_meter(tmp_path))
    measured = Efficiency(world_of('cpu'), config_of('cpu'), dataset)
    measured.start_tick()
    set_counter(zone, 7_200_000_000)
    measured.poll()
    values = measured.end_tick(tick_sec=4, tick_nimg=2000)
    flop = image_work(config_of('cpu'), dataset).total
    assert values == {
        'Timing/images_per_sec': 500,
        'Timing/tflop_per_sec': pytest.approx(500 * flop / 1e12),
        'Resources/cpu_energy_wh_per_kimg': pytest.approx(1),  # 7200 J for 2 kimg
    }
    # The next tick begins at zero, and a counter that cannot be read is left out.
    measured.start_tick()
    set_counter(zone, 7_200_000_000 + 36_000_000)
    assert measured.end_tick(1, 1000)['Resources/cpu_energy_wh_per_kimg'] == pytest.approx(0.01)
    measured.start_tick()
    (zone / 'energy_uj').unlink()
    assert measured.end_tick(1, 1000).keys() == {'Timing/images_per_sec', 'Timing/tflop_per_sec'}


def efficiency_meter(root):
    from dnnlib.energy import ProcessorEnergy

    return ProcessorEnergy(root)


def share(dataset_and_config, **options):
    dataset, config_of = dataset_and_config
    config = config_of('cuda', **options)
    values = Efficiency(world_of('cuda'), config, dataset).end_tick(tick_sec=2, tick_nimg=1000)
    return values.get('Timing/share_of_peak'), image_work(config, dataset)


def test_share_of_the_peak_of_a_card(dataset_and_config, card):
    peak = peak_of(CARD)
    for options, full_rate, half_rate in (
        (dict(allow_tf32=True), peak.tf32, peak.fp16),
        (dict(precision='bf16'), peak.fp32, peak.bf16),
        (dict(fp32=True), peak.fp32, math.inf),
    ):
        actual, work = share(dataset_and_config, **options)
        assert (work.half == 0) == (half_rate == math.inf)
        assert actual == pytest.approx(500 * (work.full / full_rate + work.half / half_rate) / 1e12), options


def test_share_of_an_unknown_peak_is_left_out(dataset_and_config, card):
    card.name = f'{CARD} MIG 1g.10gb'
    assert share(dataset_and_config)[0] is None
    card.name = 'Tesla V100-SXM2-16GB'
    assert share(dataset_and_config, precision='bf16')[0] is None  # which its tensor cores do not know
    assert share(dataset_and_config, allow_tf32=True)[0] == share(dataset_and_config)[0] > 0


def test_energy_of_a_card(dataset_and_config, card, monkeypatch):
    dataset, config_of = dataset_and_config
    driver = Driver(1_000)
    monkeypatch.setitem(sys.modules, 'pynvml', driver)
    measured = Efficiency(world_of('cuda'), config_of('cuda'), dataset)
    measured.start_tick()
    driver.millijoules += 3_600_000
    assert measured.end_tick(1, 2000)['Resources/gpu_energy_wh_per_kimg'] == pytest.approx(0.5)
    measured.start_tick()
    driver.millijoules = None
    assert 'Resources/gpu_energy_wh_per_kimg' not in measured.end_tick(1, 2000)


def test_peaks_are_plausible():
    for name, peak in CARD_PEAKS.items():
        assert peak.fp32 < peak.fp16 and peak.bf16 in (None, peak.fp16), name
        assert peak.tf32 is None or peak.fp32 <= peak.tf32 <= 0.51 * peak.fp16, name


def test_status_fields():
    values = {
        'Timing/images_per_sec': 1234.5678,
        'Timing/tflop_per_sec': 98.7654,
        'Timing/share_of_peak': 0.31415,
        'Resources/gpu_energy_wh_per_kimg': 1.5,
        'Resources/cpu_energy_wh_per_kimg': 150,
    }
    assert ' '.join(status_fields(values)).split() == 'images/s 1234.6 TFLOP/s 98.8 peak 31.4% Wh/kimg 152'.split()
    assert status_fields({}) == []
