"""How fast is this machine at what the project does, and how far is that from what the machine could do?

One table: generators, a training iteration by phase, augmentation, decoding, dataset conversion. Each figure stands
beside its floor, from peak rates measured in the same run. docs/benchmarks.md explains each part.

    python bench/overview.py                                  the whole, about 5 minutes on 2 cores
    python bench/overview.py --only=training,augment          parts of it
    python bench/overview.py --markdown=docs/benchmarks.md    and put the table into the documentation
"""

import copy
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import numpy as np
import PIL.Image
import torch

from bench.common import (
    MarkedSection,
    Row,
    check_writable,
    format_number,
    json_text,
    markdown_table,
    measure,
    synchronize,
    text_table,
    this_machine,
)
from bench.peaks import Peaks, measure_peaks
from bench.work import NetworkWork, layer_work, phase_flop
from dataset_format.images import encode_png
from dnnlib.cli import PATH, Command, device_option, resolve_device
from dnnlib.files import atomic_file
from dnnlib.machine import available_cores
from dnnlib.util import construct_class_by_name
from torch_utils.distributed import World
from training import dataset as training_dataset
from training.augment import AugmentPipe
from training.config import Options, TrainingConfig, augpipe_flags, build_config, get_preset, open_training_set
from training.ema import ema_decay, update_ema
from training.networks_stylegan2 import Generator
from training.phases import build_phases, run_phase

ROOT = Path(__file__).resolve().parent.parent
AUGMENT_P = 0.5
FLOAT_BYTES = 4


# ---------------------------------------------------------------------------------------------------------------------
# Generator


def bench_generator(peaks: Peaks, device: torch.device, quick: bool) -> Iterator[Row]:
    """Images from latents with random noise, as `generate.py` makes them, by the networks of --cfg=auto."""
    sizes = [(16, 1), (16, 4)] if quick else [(256, 1), (256, 4), (512, 1), (1024, 1)]
    generators = {resolution: _generator(resolution, quick, device) for resolution in dict(sizes)}
    cases, amounts = {}, {}
    with torch.no_grad():
        for resolution, batch in sizes:
            G = generators[resolution]
            what = f'{resolution} px, batch {batch} (channel base {_channel_base(resolution, quick)})'
            z = torch.randn([batch, G.z_dim], device=device)
            c = torch.zeros([batch, 0], device=device)
            flop = sum(layer.flop for layer in layer_work(G, z[:1], c[:1]))
            cases[what] = lambda G=G, z=z, c=c: G(z, c)
            amounts[what] = batch, flop * batch
        times = measure(cases, device, min_rounds=3, budget_sec=20)
    for what, (batch, flop) in amounts.items():
        yield Row('generator', what, times[what], batch, 'images', flop / peaks.flop_per_sec)


def _channel_base(resolution: int, quick: bool) -> int:
    return 512 if quick else get_preset('auto', resolution, num_gpus=1).channel_base


def _generator(resolution: int, quick: bool, device: torch.device) -> Generator:
    preset = get_preset('auto', resolution, num_gpus=1)
    synthesis = dict(
        channel_base=_channel_base(resolution, quick),
        channel_max=preset.channel_max,
        num_fp16_res=preset.num_fp16_res,
        conv_clamp=preset.conv_clamp,
    )
    G = Generator(
        preset.z_dim,
        0,
        preset.w_dim,
        resolution,
        3,
        mapping_kwargs=dict(num_layers=preset.mapping_layers),
        synthesis_kwargs=synthesis,
    )
    return G.eval().requires_grad_(False).to(device)


# ---------------------------------------------------------------------------------------------------------------------
# Training


def bench_training(peaks: Peaks, device: torch.device, quick: bool) -> Iterator[Row]:
    """One iteration of --cfg=auto by phase, with every augmentation of `bgc` at work; the data are in memory."""
    for resolution, batch in [(16, 4)] if quick else [(32, 16), (64, 16), (128, 8)]:
        yield from _training_rows(resolution, batch, peaks, device, quick)


def _training_rows(resolution: int, batch: int, peaks: Peaks, device: torch.device, quick: bool) -> Iterator[Row]:
    config = _training_config(resolution, batch, device, quick)
    cases, intervals, flop = _training_cases(config, resolution, device)
    # A run takes seconds, so what the first one does beside its work hardly shows.
    times = measure(cases, device, rounds=5, min_rounds=2, budget_sec=30, warm_up=quick)

    name = f'{resolution} px, batch {batch}: '
    rows = {
        phase: Row(
            'training',
            f'{name}{phase}',
            times[phase],
            batch,
            'images',
            flop[phase] / peaks.flop_per_sec if phase in flop else None,
        )
        for phase in cases
    }
    yield from rows.values()
    total_sec = sum(rows[phase].time_sec / interval for phase, interval in intervals.items())
    total_flop = sum(flop.get(phase, 0) / interval for phase, interval in intervals.items())
    parts = ' + '.join(phase if interval == 1 else f'{phase}/{interval}' for phase, interval in intervals.items())
    yield Row('training', f'{name}{parts}', [total_sec], batch, 'images', total_flop / peaks.flop_per_sec)


def _training_config(resolution: int, batch: int, device: torch.device, quick: bool) -> TrainingConfig:
    """What `train.py --cfg=auto` would run on RGB images of this size."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, 'image.png').write_bytes(encode_png(photos(1, resolution)[0]))
        options = Options(
            outdir=folder,
            data=folder,
            batch=batch,
            cbase=512 if quick else None,
            device=str(device),
            aug='fixed',
            p=AUGMENT_P,
        )
        return build_config(options, open_training_set(options), str(device), num_gpus=1)


def _training_cases(
    config: TrainingConfig, resolution: int, device: torch.device
) -> tuple[dict[str, Callable], dict[str, int], dict[str, int]]:
    """The phases and the moving average as functions; every how many iterations each runs; convolution work of each."""
    common = dict(c_dim=0, img_resolution=resolution, img_channels=3)
    G = construct_class_by_name(**config.G_kwargs, **common).train().requires_grad_(False).to(device)
    D = construct_class_by_name(**config.D_kwargs, **common).train().requires_grad_(False).to(device)
    G_ema = copy.deepcopy(G).eval()
    flop = phase_flop(NetworkWork.of(G, D), config.batch_size)
    augment_pipe = construct_class_by_name(**config.augment_kwargs).train().requires_grad_(False).to(device)
    augment_pipe.p.fill_(config.augment_p)
    loss = construct_class_by_name(device=device, G=G, D=D, augment_pipe=augment_pipe, **config.loss_kwargs)

    world = World(rank=0, size=1, device=device)
    no_label = torch.zeros([config.batch_gpu, 0], device=device)
    batches = [
        dict(
            real_img=torch.randn([config.batch_gpu, 3, resolution, resolution], device=device).clamp(-1, 1),
            real_c=no_label,
            gen_z=torch.randn([config.batch_gpu, G.z_dim], device=device),
            gen_c=no_label,
        )
        for _ in range(config.batch_size // config.batch_gpu)
    ]
    phases = build_phases(G, D, config)
    cases = {phase.name: lambda phase=phase: run_phase(phase, loss, batches, world) for phase in phases}
    decay = ema_decay(config.batch_size, 10**6, config.ema_kimg, config.ema_rampup)
    cases['EMA'] = lambda: update_ema(G_ema, G, decay)
    intervals = {phase.name: phase.interval for phase in phases} | {'EMA': 1}
    return cases, intervals, flop


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation


def bench_augment(peaks: Peaks, device: torch.device, quick: bool) -> Iterator[Row]:
    """The pipe `bgc` without gradients. At least every pixel is read once and written once."""
    pipe = AugmentPipe(**augpipe_flags('bgc')).train().requires_grad_(False).to(device)
    pipe.p.fill_(AUGMENT_P)
    shapes = [(4, 3, 32, 32)] if quick else [(16, 3, 256, 256), (32, 3, 64, 64)]
    images = {f'bgc, p = {AUGMENT_P}, {list(shape)}': torch.randn(shape, device=device) for shape in shapes}
    with torch.no_grad():
        times = measure({what: lambda x=x: pipe(x) for what, x in images.items()}, device, rounds=11)
    for what, x in images.items():
        yield Row('augment', what, times[what], x.shape[0], 'images', 2 * x.nbytes / peaks.bytes_per_sec)


# ---------------------------------------------------------------------------------------------------------------------
# Images and datasets


def photos(count: int, size: int) -> list[np.ndarray]:
    """uint8 [size, size, 3] images with the 1/f spectrum of photographs: noise of every octave, smoothed."""
    random = np.random.RandomState(0)
    images = []
    for _ in range(count):
        octaves = [2**level for level in range(1, size.bit_length())]
        image = np.full([size, size, 3], 128.0)
        for octave in octaves:
            noise = (random.uniform(-1, 1, [octave, octave, 3]) * 127 + 128).astype(np.uint8)
            scaled = PIL.Image.fromarray(noise).resize((size, size), PIL.Image.Resampling.BICUBIC)
            image += (np.asarray(scaled) - 128.0) * (1.5 / octave)
        images.append(image.clip(0, 255).astype(np.uint8))
    return images


def decode_with_pillow(content: bytes) -> np.ndarray:
    """uint8 [C, H, W], as `training.dataset.decode_image` does it without pyspng."""
    with PIL.Image.open(io.BytesIO(content)) as image:
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def bench_decoding(peaks: Peaks, device: torch.device, quick: bool) -> Iterator[Row]:
    """PNGs as dataset_tool.py writes them, from memory. At least the file is read and the pixels are written."""
    decoders = {'Pillow': decode_with_pillow}
    if training_dataset.pyspng is not None:
        decoders = {'pyspng': training_dataset.decode_image, **decoders}
    cases, files = {}, {}
    for size, count in [(32, 8)] if quick else [(256, 64), (32, 512)]:
        contents = [encode_png(image) for image in photos(min(count, 16), size)]
        contents = [contents[index % len(contents)] for index in range(count)]
        for name, decode in decoders.items():
            what = f'PNG, {size} px RGB, {name}'
            files[what] = contents, size
            cases[what] = lambda contents=contents, decode=decode: [decode(content) for content in contents]
    times = measure(cases, torch.device('cpu'), budget_sec=5)
    for what, (contents, size) in files.items():
        num_bytes = sum(len(content) + size * size * 3 for content in contents)
        yield Row('decoding', what, times[what], len(contents), 'images', num_bytes / peaks.bytes_per_sec)


def bench_conversion(peaks: Peaks, device: torch.device, quick: bool) -> Iterator[Row]:
    """dataset_tool.py from a folder of JPEGs to a zip archive, as a command, with all it does to start and end.

    At least the JPEG is read, the pixels are written and read again, and the PNG is written.
    """
    with tempfile.TemporaryDirectory() as scratch:
        cases, amounts = {}, {}
        for size, count in [(32, 300)] if quick else [(256, 1000), (32, 10000)]:
            folder = Path(scratch, f'jpeg{size}')
            jpeg_bytes = _write_jpegs(folder, size, count)
            pixel_bytes = count * size * size * 3
            for workers in (1, 2):
                what = f'{count} JPEG, {size} px RGB, --workers={workers}'
                command = [
                    sys.executable,
                    str(ROOT / 'dataset_tool.py'),
                    f'--source={folder}',
                    f'--dest={scratch}/dataset.zip',
                    f'--workers={workers}',
                ]
                cases[what] = lambda command=command: _run_command(command)
                amounts[what] = count, jpeg_bytes + 3 * pixel_bytes  # a PNG here is as large as its pixels
        times = measure(cases, torch.device('cpu'), rounds=3, min_rounds=2 if quick else 3, warm_up=False)
    for what, (count, num_bytes) in amounts.items():
        yield Row('conversion', what, times[what], count, 'images', num_bytes / peaks.bytes_per_sec)


def _write_jpegs(folder: Path, size: int, count: int) -> int:
    """Fill a new folder with `count` files (of a few pictures, over and over); returns their bytes."""
    contents = []
    for image in photos(min(count, 16), size):
        file = io.BytesIO()
        PIL.Image.fromarray(image).save(file, format='jpeg', quality=90)
        contents.append(file.getvalue())
    folder.mkdir()
    chosen = [contents[index % len(contents)] for index in range(count)]
    for index, content in enumerate(chosen):
        Path(folder, f'{index:06d}.jpg').write_bytes(content)
    return sum(map(len, chosen))


def _run_command(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise click.ClickException(f'{" ".join(command)} ended with status {result.returncode}: {result.stderr}')


# ---------------------------------------------------------------------------------------------------------------------
# Command

SECTIONS = {
    'generator': bench_generator,
    'training': bench_training,
    'augment': bench_augment,
    'decoding': bench_decoding,
    'conversion': bench_conversion,
}


class SectionNames(click.ParamType):
    name = 'NAME,...'

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(','))
        for name in names:
            if name not in SECTIONS:
                self.fail(
                    f'{name!r} is no section: give some of {", ".join(SECTIONS)}, with commas between.', param, ctx
                )
        return names


@click.command(cls=Command)
@click.option(
    '--only',
    type=SectionNames(),
    default=','.join(SECTIONS),
    show_default=True,
    help='Sections to run; the peaks that their floors need are always measured',
)
@click.option('--quick', is_flag=True, help='Tiny sizes: whether it works, not how fast')
@click.option(
    '--threads', type=click.IntRange(min=1), metavar='N', show_default='one per core', help='Threads of PyTorch'
)
@click.option('--json', 'json_path', type=PATH, metavar='FILE', help='Write machine and rows, each run with its time')
@click.option(
    '--markdown', 'markdown_path', type=PATH, metavar='FILE', help='Replace the table in this file (docs/benchmarks.md)'
)
@device_option()
def main(
    only: tuple[str, ...],
    quick: bool,
    threads: int | None,
    json_path: str | None,
    markdown_path: str | None,
    device: str,
) -> None:
    """Measure generators, training, augmentation, decoding and dataset conversion on this machine, beside their floors.

    The floor of a figure is the least work it takes, at the peak rates measured in the same run.
    """
    device = resolve_device(device)
    check_writable('--json', json_path)
    markdown = None if markdown_path is None else MarkedSection(markdown_path, 'bench/overview.py')
    torch.set_num_threads(threads or available_cores())
    torch.backends.cudnn.benchmark = True  # as train.py has it
    torch.manual_seed(0)
    machine = this_machine(device)
    print(machine, flush=True)

    peaks, rows = measure_peaks(device, quick)
    for name, bench in SECTIONS.items():
        if name in only:
            print(f'{name} ...', file=sys.stderr, flush=True)
            rows += bench(peaks, device, quick)
            synchronize(device)

    note = (
        f'Floors: convolutions at {format_number(peaks.flop_per_sec / 1e9)} GFLOP/s, '
        f'bytes at {format_number(peaks.bytes_per_sec / 1e9)} GB/s, the best of the peaks.'
    )
    if quick:
        note += ' These are the tiny sizes of --quick.'
    print(f'\n{text_table(rows)}\n\n{note}')
    if json_path is not None:
        with atomic_file(json_path) as file:
            file.write(json_text(machine, rows).encode())
    if markdown is not None:
        markdown.replace(f'{machine}.\n{note}\n\n{markdown_table(rows)}')


if __name__ == '__main__':
    main()
