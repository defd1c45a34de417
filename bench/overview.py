"""How fast is this machine at what the project does, and how close is that to what the machine could do?

One table: generators, a training iteration by phase, augmentation, decoding, dataset conversion. Each figure stands
beside its floor, computed from peak rates measured in the same run. docs/benchmarks.md explains each part.

    python bench/overview.py                                  everything, about 5 minutes on 2 cores
    python bench/overview.py --only=training,augment          some sections
    python bench/overview.py --markdown=docs/benchmarks.md    and update the table in the documentation
"""

from __future__ import annotations

import functools
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import numpy as np
import PIL.Image
import torch

from bench.common import CPU, Row, measure, rows_to_json, run_command, set_up, synchronize
from bench.networks import (
    TrainingStep,
    construct_augment_pipe,
    construct_generator,
    quick_channel_base,
    training_setup,
)
from bench.options import ResultFiles, benchmark_options, sections_option
from bench.peaks import Peaks, measure_peaks
from bench.tables import markdown_table_of_rows, text_table_of_rows
from dataset_format.images import encode_png
from dnnlib.cli import Command, device_option, resolve_device
from torch_utils.distributed import World
from training.data import decoding
from training.work import generator_flop

ROOT = Path(__file__).resolve().parent.parent
AUGMENT_P = 0.5

# ---------------------------------------------------------------------------------------------------------------------
# Generator


def bench_generator(peaks: Peaks, device: torch.device, quick: bool) -> Iterator[Row]:
    """Time images from latents with random noise, as in `generate.py`, with the networks of several presets."""
    sizes = [(16, 1), (16, 4)] if quick else [(256, 1), (256, 4), (512, 1), (1024, 1)]
    networks = [('auto', *size) for size in sizes] + [(cfg, *sizes[0]) for cfg in ('stylegan3-t', 'stylegan3-r')]
    generators = {
        (cfg, resolution): construct_generator(resolution, quick, device, cfg) for cfg, resolution, _batch in networks
    }
    cases, amounts = {}, {}
    with torch.no_grad():
        for cfg, resolution, batch in networks:
            G, channel_base = generators[cfg, resolution]
            preset = '' if cfg == 'auto' else f'{cfg}, '
            what = f'{preset}{resolution} px, batch {batch} (channel base {channel_base})'
            z = torch.randn([batch, G.z_dim], device=device)
            c = torch.zeros([batch, 0], device=device)
            cases[what] = functools.partial(G, z, c)
            amounts[what] = batch, generator_flop(G, z, c)
        times = measure(cases, device, min_rounds=3, budget_sec=20)
    for what, (batch, flop) in amounts.items():
        yield Row('generator', what, times[what], batch, 'images', flop / peaks.flop_per_sec)


# ---------------------------------------------------------------------------------------------------------------------
# Training


def bench_training(peaks: Peaks, device: torch.device, quick: bool) -> Iterator[Row]:
    """Time one iteration of --cfg=auto by phase, with all augmentations of `bgc`; the data is in memory."""
    for resolution, batch in [(16, 4)] if quick else [(32, 16), (64, 16), (128, 8)]:
        yield from _training_rows(resolution, batch, peaks, device, quick)


def _training_rows(resolution: int, batch: int, peaks: Peaks, device: torch.device, quick: bool) -> Iterator[Row]:
    config, dataset = training_setup(resolution, batch, 1, device, quick_channel_base(quick), AUGMENT_P)
    step = TrainingStep(World(rank=0, size=1, device=device), config, dataset)
    flop, intervals = step.flop(), step.intervals()
    # A run takes seconds, so the additional work of the first one hardly matters.
    times = measure(step.cases(), device, rounds=5, min_rounds=2, budget_sec=30, warm_up=quick)

    def row(what: str, times_sec: list[float], work: float | None) -> Row:
        floor_sec = None if work is None else work / peaks.flop_per_sec
        return Row('training', f'{resolution} px, batch {batch}: {what}', times_sec, batch, 'images', floor_sec)

    rows = {name: row(name, times_sec, flop.get(name)) for name, times_sec in times.items()}
    yield from rows.values()
    terms = ' + '.join(name if interval == 1 else f'{name}/{interval}' for name, interval in intervals.items())
    total_sec = sum(rows[name].time_sec / interval for name, interval in intervals.items())
    total_flop = sum(flop.get(name, 0) / interval for name, interval in intervals.items())
    yield row(terms, [total_sec], total_flop)


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation


def bench_augment(peaks: Peaks, device: torch.device, quick: bool) -> Iterator[Row]:
    """Time the pipe `bgc` without gradients. Floor: every pixel is read once and written once."""
    pipe = construct_augment_pipe(AUGMENT_P, device)
    shapes = [(4, 3, 32, 32)] if quick else [(16, 3, 256, 256), (32, 3, 64, 64)]
    images = {f'bgc, p = {AUGMENT_P}, {list(shape)}': torch.randn(shape, device=device) for shape in shapes}
    with torch.no_grad():
        times = measure({what: functools.partial(pipe, x) for what, x in images.items()}, device, rounds=11)
    for what, x in images.items():
        yield Row('augment', what, times[what], x.shape[0], 'images', 2 * x.nbytes / peaks.bytes_per_sec)


# ---------------------------------------------------------------------------------------------------------------------
# Images and datasets


def photos(count: int, size: int) -> list[np.ndarray]:
    """Return uint8 [size, size, 3] images with the 1/f spectrum of photographs: smoothed noise of every octave."""
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
    """Decode to uint8 [C, H, W], as `training.data.decoding.decode_image` does without pyspng."""
    with PIL.Image.open(io.BytesIO(content)) as image:
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _decode_all(decode: Callable[[bytes], np.ndarray], contents: list[bytes]) -> None:
    for content in contents:
        decode(content)


def bench_decoding(peaks: Peaks, device: torch.device, quick: bool) -> Iterator[Row]:
    """Decode PNGs as dataset_tool.py writes them, from memory. Floor: the file is read and the pixels are written."""
    decoders = {'Pillow': decode_with_pillow}
    if decoding.pyspng is not None:
        decoders = {'pyspng': decoding.decode_image, **decoders}
    cases, files = {}, {}
    for size, count in [(32, 8)] if quick else [(256, 64), (32, 512)]:
        contents = [encode_png(image) for image in photos(min(count, 16), size)]
        contents = [contents[index % len(contents)] for index in range(count)]
        for name, decode in decoders.items():
            what = f'PNG, {size} px RGB, {name}'
            files[what] = contents, size
            cases[what] = functools.partial(_decode_all, decode, contents)
    times = measure(cases, CPU, budget_sec=5)
    for what, (contents, size) in files.items():
        num_bytes = sum(len(content) + size * size * 3 for content in contents)
        yield Row('decoding', what, times[what], len(contents), 'images', num_bytes / peaks.bytes_per_sec)


def bench_conversion(peaks: Peaks, device: torch.device, quick: bool) -> Iterator[Row]:
    """Time dataset_tool.py, from start to exit, on a folder of JPEGs that it converts to a zip archive.

    Floor: the JPEG is read, the pixels are written and read again, and the PNG is written.
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
                cases[what] = functools.partial(run_command, command)
                amounts[what] = count, jpeg_bytes + 3 * pixel_bytes  # these PNGs are as large as their pixels
        times = measure(cases, CPU, rounds=3, min_rounds=2 if quick else 3, warm_up=False)
    for what, (count, num_bytes) in amounts.items():
        yield Row('conversion', what, times[what], count, 'images', num_bytes / peaks.bytes_per_sec)


def _write_jpegs(folder: Path, size: int, count: int) -> int:
    """Fill a new folder with `count` files, which repeat a few pictures; return their total size in bytes."""
    contents = []
    for image in photos(min(count, 16), size):
        file = io.BytesIO()
        PIL.Image.fromarray(image).save(file, format='jpeg', quality=90)
        contents.append(file.getvalue())
    folder.mkdir()
    for index in range(count):
        Path(folder, f'{index:06d}.jpg').write_bytes(contents[index % len(contents)])
    return sum(len(contents[index % len(contents)]) for index in range(count))


# ---------------------------------------------------------------------------------------------------------------------
# Command

SECTIONS: dict[str, Callable[[Peaks, torch.device, bool], Iterator[Row]]] = {
    'generator': bench_generator,
    'training': bench_training,
    'augment': bench_augment,
    'decoding': bench_decoding,
    'conversion': bench_conversion,
}


@click.command(cls=Command)
@sections_option(list(SECTIONS))
@benchmark_options('quick', 'threads', 'json', 'markdown')
@device_option()
def main(
    only: tuple[str, ...],
    quick: bool,
    threads: int | None,
    json_path: str | None,
    markdown_path: str | None,
    device: str,
) -> None:
    """Measure generators, training, augmentation, decoding and dataset conversion, each beside its floor.

    The floor is the time of the least possible work at the peak rates, which are measured in every run.
    """
    torch_device = resolve_device(device)
    results = ResultFiles('bench/overview.py', json_path, markdown_path)
    torch.backends.cudnn.benchmark = True  # as in train.py
    machine = set_up(torch_device, threads)

    peaks, rows = measure_peaks(torch_device, quick)
    for name, bench in SECTIONS.items():
        if name in only:
            print(f'{name} ...', file=sys.stderr, flush=True)
            rows += bench(peaks, torch_device, quick)
            synchronize(torch_device)

    note = f'Floors: {peaks}, the best of the peaks.' + ' Tiny sizes (--quick).' * quick
    print(f'\n{text_table_of_rows(rows)}\n\n{note}')
    results.save(rows_to_json(machine, rows), f'{machine}.\n{note}\n\n{markdown_table_of_rows(rows)}')


if __name__ == '__main__':
    main()
