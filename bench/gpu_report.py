"""The page of `scripts/gpu_check.sh`: what it found on a machine, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from bench.common import format_number
from bench.gpu_networks import GpuRow, tables
from bench.tables import markdown_table

KERNEL_GOAL = 0.85  # of the bandwidth of a copy
LAST_LINES = 15  # of the output of a part that fails


def to_markdown(results: Mapping[str, Any]) -> str:
    """Return the results of `scripts/gpu_check.py` as Markdown."""
    parts: Mapping[str, Mapping[str, Any]] = results['parts']
    sections = [describe(results['machine']), _overview(parts)]
    if results['quick']:
        sections.insert(1, 'Tiny sizes (`--quick`): the figures say nothing about speed.')
    for name, part in parts.items():
        if part.get('measured'):
            sections.append(f'### {part["title"]}\n\n{_TABLES[name](part["measured"])}')
    sections += [
        f'### The end of {name}, which {part["result"]}\n\n```\n' + '\n'.join(part['last_lines']) + '\n```'
        for name, part in parts.items()
        if part['result'] not in ('passed', 'skipped')
    ]
    return '\n\n'.join(sections)


def describe(machine: Mapping[str, Any]) -> str:
    """Return a sentence about the machine."""
    gpus = f'{machine["num_gpus"]} x ' if machine['num_gpus'] > 1 else ''
    memory = f'{machine["memory_bytes"] / 2**30:.0f} GiB'
    return (
        f'{gpus}**{machine["gpu"]}** (compute capability {machine["capability"]}, {memory}), driver '
        f'{machine["driver"] or "unknown"} for CUDA {machine["driver_cuda"]}; PyTorch {machine["torch"]} for CUDA '
        f'{machine["torch_cuda"]}, cuDNN {machine["cudnn"]}, NVRTC {machine["nvrtc"]} ({machine["target"]}); '
        f'{machine["cpu"]}, {machine["system"]}, Python {machine["python"]}.'
    )


def _overview(parts: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, part in parts.items():
        reason = f': {part["reason"]}' if part.get('reason') else ''
        rows.append((name, part['title'], part['result'] + reason, f'{part["sec"]:.0f} s'))
    return markdown_table(['part', 'what', 'result', 'time'], rows, left_columns=3)


def _kernels(measured: Mapping[str, Any]) -> str:
    """Summarize the shapes, types and layouts of each operator: their shares of the bandwidth of a copy."""
    rows = measured['rows']
    copy = next(row for row in rows if row['section'] == 'copy')
    by_kernel: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        direction = row['what'].split()[-1]
        if row['share'] is not None and direction in ('forward', 'backward'):
            by_kernel.setdefault((row['section'], direction), []).append(row['share'])
    cells = []
    for kernel, shares in by_kernel.items():
        num_good = sum(share >= KERNEL_GOAL for share in shares)
        cells.append((*kernel, f'{min(shares):.0%}', f'{median(shares):.0%}', f'{num_good} of {len(shares)}'))
    headings = ['operator', 'direction', 'lowest share', 'median share', f'at least {KERNEL_GOAL:.0%}']
    rate = f'{format_number(copy["rate"])} GB/s'
    return (
        f'Shares of the bandwidth of a copy, {rate}, over all shapes, types and layouts:\n\n'
        f'{markdown_table(headings, cells, left_columns=2)}'
    )


def _networks(measured: Mapping[str, Any]) -> str:
    return tables([GpuRow(**row) for row in measured['rows']])


def _memory(measured: list[dict[str, int]]) -> str:
    rows = [
        (
            row['resolution'],
            row['images'],
            f'{row["estimated_bytes"] / 2**30:.2f} GiB',
            f'{row["peak_bytes"] / 2**30:.2f} GiB',
            f'{row["estimated_bytes"] / row["peak_bytes"]:.2f}',
        )
        for row in measured
    ]
    return markdown_table(['pixels', 'images', 'estimate', 'peak of the GPU', 'ratio'], rows)


def _ranks(measured: Mapping[str, Any]) -> str:
    rows = [
        (row['what'], f'{row["time_sec"] * 1e3:.1f} ms', f'{format_number(row["rate"])} images/s')
        for row in measured['rows']
    ]
    return markdown_table(['phase', 'time', 'rate'], rows)


# By name of the part
_TABLES: dict[str, Callable[[Any], str]] = {
    'kernels': _kernels,
    'generator': _networks,
    'training': _networks,
    'memory': _memory,
    'ranks': _ranks,
}
