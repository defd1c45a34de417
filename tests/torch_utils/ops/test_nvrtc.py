"""Run-time compilation: the choice of the library and of the target, and the cache on disk."""

import itertools
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from torch_utils.ops import cuda_driver, cuda_launch, nvrtc

SOURCE = '#include "scale.h"\nextern "C" __global__ void scale(float* x) { x[threadIdx.x] *= FACTOR; }\n'
HEADERS = {'scale.h': '#define FACTOR 3\n'}
OPTIONS = ('--gpu-architecture=sm_80', '--ptxas-options=-v')


@pytest.fixture
def cache(monkeypatch, tmp_path):
    try:
        nvrtc.compiler()
    except nvrtc.CompilerMissing as reason:
        pytest.skip(str(reason))
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(tmp_path / 'extensions'))
    return tmp_path / 'extensions' / 'ada_gan_cuda'


def build(factor=3, options=OPTIONS):
    return nvrtc.build('scale', SOURCE, {'scale.h': f'#define FACTOR {factor}\n'}, options)


def test_a_binary_is_compiled_once(cache):
    first, second = build(), build()
    assert first.log and not second.log  # Only a compiler writes a log.
    assert first.image == second.image
    assert nvrtc.usage(first.log).registers > 0


def test_another_header_or_architecture_is_another_binary(cache):
    images = {build().image, build(factor=4).image, build(options=('--gpu-architecture=sm_90',)).image}
    assert len(images) == len(list(cache.glob('*.bin'))) == 3


def test_portable_code_for_a_virtual_architecture(cache):
    assert b'.target sm_80' in build(options=('--gpu-architecture=compute_80',)).image


@pytest.mark.parametrize('damage', [lambda content: content[:-1], lambda content: b'', lambda content: content[::-1]])
def test_a_damaged_file_is_compiled_again(cache, damage):
    image = build().image
    (file,) = cache.glob('*.bin')
    file.write_bytes(damage(file.read_bytes()))
    again = build()
    assert again.image == image and again.log
    assert not build().log


def test_a_file_that_cannot_be_written_causes_one_message(cache, capsys):
    build()
    (file,) = cache.glob('*.bin')
    file.unlink()
    file.mkdir()  # The file can no longer be written.
    assert build().log and build().log
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and str(file) in said


def test_two_processes_at_once(cache):
    code = (
        'from torch_utils.ops import nvrtc\n'
        f'print(len(nvrtc.build("scale", {SOURCE!r}, {HEADERS!r}, {OPTIONS!r}).image))'
    )
    root = Path(nvrtc.__file__).parents[2]
    both = [
        subprocess.Popen([sys.executable, '-c', code], cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    sizes = {process.communicate(timeout=120)[0] for process in both}
    assert sizes == {f'{len(build().image)}\n'}
    assert [file.suffix for file in cache.iterdir()] == ['.bin']


def test_errors_in_a_source_are_reported(cache):
    with pytest.raises(nvrtc.CompilationFailed, match='undefined_name'):
        nvrtc.build('wrong', '__global__ void wrong(float* x) { *x = undefined_name; }', {}, OPTIONS)


@pytest.mark.parametrize(
    'capability, target',
    [
        ((8, 0), 'sm_80'),
        ((8, 6), 'sm_80'),
        ((9, 0), 'sm_90'),
        ((10, 0), 'sm_100'),
        ((10, 3), 'sm_100'),
        ((12, 0), 'compute_100'),
        ((9, 5), 'sm_90'),
    ],
)
def test_target(capability, target):
    assert nvrtc.target(capability, (75, 80, 90, 100)) == target


# What NVRTC of each version compiles for, by `nvrtcGetSupportedArchs`, without architectures below 70
ARCHITECTURES = {
    (12, 1): (70, 72, 75, 80, 86, 87, 89, 90),
    (12, 4): (70, 72, 75, 80, 86, 87, 89, 90),
    (12, 8): (70, 72, 75, 80, 86, 87, 89, 90, 100, 101, 120),
    (12, 9): (70, 72, 75, 80, 86, 87, 89, 90, 100, 101, 103, 120, 121),
    (13, 0): (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121),
}
GPUS = ((7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (11, 0), (12, 0), (12, 1))


def fake_compiler(version):
    return SimpleNamespace(version=version, architectures=ARCHITECTURES[version], path=f'libnvrtc.so.{version[0]}')


def is_loadable(choice, capability, driver):
    """The rules of NVIDIA's documents: binaries run on later minor versions, drivers know no newer PTX."""
    kind, number = choice.target.split('_')
    assert int(number) in choice.compiler.architectures
    if kind == 'compute':
        return int(number) <= capability[0] * 10 + capability[1] and choice.compiler.version <= driver
    same_generation = int(number) // 10 == capability[0] and int(number) % 10 <= capability[1]
    return same_generation and choice.compiler.version[0] <= driver[0]


@pytest.mark.parametrize(
    'versions', [*itertools.permutations(ARCHITECTURES, 1), *itertools.permutations(ARCHITECTURES, 2)]
)
@pytest.mark.parametrize('driver', [(12, 2), (12, 4), (12, 8), (13, 0), (13, 2)])
def test_what_is_compiled_can_be_loaded(versions, driver):
    found = [fake_compiler(version) for version in versions]
    for capability in GPUS:
        try:
            choice = nvrtc.choose(capability, driver, found)
        except nvrtc.CompilerMissing as error:
            for compiler in found:
                too_old_gpu = min(compiler.architectures) > capability[0] * 10 + capability[1]
                needs_ptx = capability[0] not in {number // 10 for number in compiler.architectures}
                too_new = compiler.version[0] > driver[0] or (needs_ptx and compiler.version > driver)
                assert too_old_gpu or too_new
            assert re.search('install .*nvidia-cuda-nvrtc', str(error))
        else:
            assert is_loadable(choice, capability, driver), (choice, capability)


def test_machine_code_of_another_compiler_is_preferred_to_portable_code():
    old, new = fake_compiler((12, 4)), fake_compiler((12, 8))
    assert nvrtc.choose((12, 0), (12, 8), [old, new]) == (new, 'sm_120')
    assert nvrtc.choose((12, 0), (12, 8), [old]) == (old, 'compute_90')
    assert nvrtc.choose((9, 0), (12, 8), [old, new]) == (old, 'sm_90')


def test_a_compiler_that_is_newer_than_the_driver_is_explained():
    with pytest.raises(nvrtc.CompilerMissing, match=r'is of CUDA 13\.0, but the driver only supports CUDA 12\.4'):
        nvrtc.choose((9, 0), (12, 4), [fake_compiler((13, 0))])
    assert nvrtc.choose((7, 0), (13, 0), [fake_compiler((13, 0)), fake_compiler((12, 9))]).target == 'sm_70'


def test_version_of_the_driver(monkeypatch):
    def driver_version(pointer):
        pointer._obj.value = 12080
        return 0

    monkeypatch.setattr(cuda_driver, '_driver', lambda: SimpleNamespace(cuDriverGetVersion=driver_version))
    assert cuda_driver.version() == (12, 8)


def test_kernels_are_compiled_by_the_compiler_that_was_chosen(monkeypatch):
    compiled = []
    compiler = fake_compiler((12, 4))
    compiler.compile = lambda name, source, headers, options: compiled.append(options) or nvrtc.Binary(b'image', '')
    monkeypatch.setattr(nvrtc, 'compilers', lambda: iter([fake_compiler((13, 0)), compiler]))
    monkeypatch.setattr(nvrtc, 'cache_folder', lambda: None)
    monkeypatch.setattr(cuda_driver, 'version', lambda: (12, 4))
    loaded = SimpleNamespace(function=lambda key, name, build, shared_bytes: build())
    monkeypatch.setattr(cuda_driver, 'device', lambda index: loaded)
    monkeypatch.setattr('torch.cuda.get_device_capability', lambda index: (8, 9))
    cuda_launch.choice.cache_clear()
    kernel = cuda_launch.Kernel('bias_act.cu', 'bias_act', ())
    try:
        assert cuda_launch.load(cuda_launch.Launch(kernel, 1, 32, 0, b''), 0) == b'image'
    finally:
        cuda_launch.choice.cache_clear()
    assert '--gpu-architecture=sm_89' in compiled[0]


def test_a_gpu_that_is_too_old():
    with pytest.raises(nvrtc.CompilerMissing, match=r'capability 7\.0.*install'):
        nvrtc.target((7, 0), (75, 80, 90))


@pytest.mark.parametrize(
    'name, major',
    [
        ('libnvrtc.so.12', 12),
        ('/x/libnvrtc.so.13', 13),
        ('libnvrtc-672ee683.so.11.2', 11),
        ('nvrtc64_120_0.dll', 12),
        ('libnvrtc.so', None),
    ],
)
def test_version_of_a_library(name, major):
    assert nvrtc.major_version(name) == major


def test_the_library_of_pytorchs_own_cuda_comes_first(monkeypatch, tmp_path):
    for version in (11, 12, 13):
        (tmp_path / f'libnvrtc.so.{version}').touch()
    (tmp_path / 'libnvrtc-builtins.so.12.4').touch()
    monkeypatch.setattr(nvrtc, '_library_folders', lambda: iter([tmp_path]))
    monkeypatch.setattr('torch.version.cuda', '12.4')
    found = list(nvrtc.candidates())
    assert found[0] == str(tmp_path / 'libnvrtc.so.12')
    assert set(found[:3]) == {str(tmp_path / f'libnvrtc.so.{version}') for version in (11, 12, 13)}


def test_missing_library_names_what_to_install(monkeypatch):
    monkeypatch.setattr(nvrtc, 'candidates', lambda: iter(()))
    with pytest.raises(nvrtc.CompilerMissing, match=r'pip install .*nvidia-cuda-nvrtc'):
        nvrtc.compiler()
    monkeypatch.setattr(nvrtc, 'candidates', lambda: iter(['/nowhere/libnvrtc.so']))
    with pytest.raises(nvrtc.CompilerMissing, match='/nowhere/libnvrtc.so'):
        nvrtc.compiler()


def test_usage():
    log = (
        "ptxas info    : Compiling entry function 'k' for 'sm_90'\n"
        '    16 bytes stack frame, 24 bytes spill stores, 32 bytes spill loads\n'
        'ptxas info    : Used 46 registers, used 1 barriers, 2944 bytes smem\n'
    )
    assert nvrtc.usage(log) == nvrtc.Usage(registers=46, spilled_bytes=56, stack_bytes=16, shared_bytes=2944)
    with pytest.raises(ValueError, match='no register count'):
        nvrtc.usage('')
