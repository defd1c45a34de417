"""Conversions by dataset_tool.py within this process, which must not take much memory."""

import tracemalloc
from pathlib import Path

from click.testing import CliRunner

import dataset_tool

MIB = 2**20


def convert(source: Path, dest: Path, *args: object, status: int = 0) -> str:
    """Run the script and return its output on one line."""
    arguments = ['--source', source, '--dest', dest, '--workers', 1, *args]
    tracemalloc.start()
    try:
        result = CliRunner().invoke(dataset_tool.main, [str(arg) for arg in arguments])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, (SystemExit, type(None)))
    assert peak < 64 * MIB
    return ' '.join(result.output.split())
