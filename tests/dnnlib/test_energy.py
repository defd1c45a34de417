"""Meters of energy: counters of processors that wrap around or cannot be read, and cards through their driver."""

import sys
import types

import pytest

from dnnlib.energy import CardEnergy, ProcessorEnergy

WRAPS_AT = 262_143_328_850


def add_zone(root, name, label, microjoules, wraps_at=WRAPS_AT):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / 'name').write_text(f'{label}\n')
    (folder / 'max_energy_range_uj').write_text(f'{wraps_at}\n')
    set_counter(folder, microjoules)
    return folder


def set_counter(folder, microjoules):
    (folder / 'energy_uj').write_text(f'{microjoules}\n')


@pytest.fixture
def zones(tmp_path):
    """Two packages, the memory of one of them, and what must not be counted a second time."""
    return {
        name: add_zone(tmp_path, name, label, 1_000_000)
        for name, label in {
            'intel-rapl:0': 'package-0',
            'intel-rapl:1': 'package-1',
            'intel-rapl:0:0': 'core',
            'intel-rapl:0:1': 'dram',
            'intel-rapl:2': 'psys',
            'intel-rapl-mmio:0': 'package-0',
        }.items()
    }


def test_packages_and_memory_are_counted_once(tmp_path, zones):
    meter = ProcessorEnergy(tmp_path)
    assert meter.joules() == 0
    for folder in zones.values():
        set_counter(folder, 3_500_000)
    assert meter.joules() == pytest.approx(3 * 2.5)
    assert meter.joules() == pytest.approx(3 * 2.5)


def test_counters_wrap_around(tmp_path):
    folder = add_zone(tmp_path, 'intel-rapl:0', 'package-0', WRAPS_AT - 2_000_000)
    meter = ProcessorEnergy(tmp_path)
    for microjoules in (1_000_000, WRAPS_AT - 1, 5_000_000):
        set_counter(folder, microjoules)
        joules = meter.joules()
    assert joules == pytest.approx((2_000_000 + WRAPS_AT + 5_000_000) / 1e6, abs=0.01)


@pytest.mark.parametrize('damage', ['missing', 'folder', 'text', 'huge', 'endless'])
def test_a_counter_that_cannot_be_read_means_that_the_energy_is_unknown(tmp_path, zones, damage):
    meter = ProcessorEnergy(tmp_path)
    counter = zones['intel-rapl:1'] / 'energy_uj'
    counter.unlink()
    if damage == 'folder':
        counter.mkdir()
    elif damage != 'missing':
        counter.write_text({'text': 'none', 'huge': '9' * 5000, 'endless': ' ' * 100_000}[damage])
    assert meter.joules() is None
    assert ProcessorEnergy(tmp_path).joules() is None
    if damage != 'folder':
        set_counter(zones['intel-rapl:1'], 2_000_000)
        assert meter.joules() is None  # what was used in between is not known


def test_no_counters(tmp_path):
    assert ProcessorEnergy(tmp_path).joules() is None
    assert ProcessorEnergy(tmp_path / 'nowhere').joules() is None
    add_zone(tmp_path, 'intel-rapl:0', 'package-0', 5, wraps_at=0)
    assert ProcessorEnergy(tmp_path).joules() is None


class Driver(types.ModuleType):
    """In place of the package `pynvml`."""

    def __init__(self, millijoules, uuid='GPU-1234'):
        super().__init__('pynvml')
        self.millijoules, self.uuid = millijoules, uuid

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != self.uuid:
            raise RuntimeError('Not Found')
        return 7

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if self.millijoules is None:
            raise RuntimeError('Not Supported')
        return self.millijoules


def test_energy_of_a_card(monkeypatch):
    driver = Driver(5000)
    monkeypatch.setitem(sys.modules, 'pynvml', driver)
    for uuid in ('1234', 'GPU-1234'):
        assert CardEnergy(uuid).joules() == 5
    meter = CardEnergy('1234')
    assert CardEnergy('other').joules() is None and CardEnergy(None).joules() is None
    driver.millijoules = None
    assert meter.joules() is None and CardEnergy('1234').joules() is None


def test_energy_of_a_card_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pynvml', None)
    assert CardEnergy('1234').joules() is None
