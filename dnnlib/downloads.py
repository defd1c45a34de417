"""Open files that may be behind a URL: `open_url` downloads them to the cache, retrying and resuming as needed."""

from __future__ import annotations

import os
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

from dnnlib.cache import (
    PartialFile,
    cache_path,
    cached_file,
    checksum_defect,
    exclusive_partial,
    find_defect,
    make_cache_dir_path,
    remove_stale_partials,
)
from dnnlib.errors import DownloadError
from dnnlib.files import open_regular
from dnnlib.http_transfer import Source, TransferFailed, transfer
from dnnlib.text import message_line

__all__ = ['DownloadError', 'cache_path', 'cached_file', 'is_url', 'make_cache_dir_path', 'open_url']

_FIRST_RETRY_DELAY_SEC = 0.25
_LONGEST_RETRY_DELAY_SEC = 4.0
_PROGRESS_BYTES = 1 << 20  # an attempt that exceeds the largest size so far by this much does not count as failed


def is_url(text: Any) -> bool:
    """Return whether `text` is an http or https address with a host, or one that starts with `hf://`.

    The latter name networks on a hub, which `network_files.hub` finds.
    """
    return _scheme(text) in ('http', 'https', 'hf')


def _scheme(text: Any) -> str:
    """Return the scheme of an address with a host, or ''."""
    if not isinstance(text, str) or '://' not in text:
        return ''
    try:
        address = urllib.parse.urlsplit(text)
    except ValueError:  # such as http://[
        return ''
    return address.scheme if address.netloc else ''


def open_url(
    url: str | os.PathLike,
    cache_dir: str | None = None,
    num_attempts: int = 10,
    verbose: bool = True,
    *,
    sha256: str | None = None,
    max_bytes: int | None = None,
    authorization: str | None = None,
    size: int | None = None,
) -> BinaryIO:
    """Open a local file or the cached download of a URL for binary reading.

    Args:
        url: http(s) address, file:// address, or path (`~` is expanded).
        cache_dir: Folder for downloads. Default: `downloads` in `DNNLIB_CACHE_DIR` or in `~/.cache/dnnlib`.
        num_attempts: Number of consecutive attempts without progress after which the download fails.
        verbose: Report progress on stderr, with a progress bar on a terminal.
        sha256: Hexadecimal digest that the file must have. A cached file with another one is downloaded again.
        max_bytes: Most bytes to download. A server that sends more is cut off, and nothing is kept.
        authorization: Header of this name for the host of the URL; hosts to which it redirects do not get it.
        size: Bytes that a download must have; never more than these are received.

    Raises:
        DownloadError: The URL cannot be downloaded, or the file does not match `sha256`, or is larger than `max_bytes`.
            The message is one sentence.
        OSError: A local file cannot be opened.
    """
    if sha256 is not None and not re.fullmatch(r'[0-9A-Fa-f]{64}', sha256):
        raise ValueError(f'sha256 must be 64 hexadecimal digits, got {sha256!r}')
    location = os.fspath(url)
    if _scheme(location) in ('http', 'https'):
        source = Source(location, sha256, authorization, size, max_bytes)
        return open_regular(_download_to_cache(source, cache_dir, max(num_attempts, 1), verbose))
    file = open_regular(_local_path(location))
    defect = checksum_defect(file.name, sha256)
    if defect is not None:
        file.close()
        raise DownloadError(f'{file.name}: {defect}')
    return file


def _local_path(location: str) -> str:
    """Return the path of a local file that is given as a path or a file:// address."""
    scheme = re.match(r'([A-Za-z][A-Za-z0-9+.-]+)://', location)
    if scheme is None:
        return os.path.expanduser(location)
    if scheme[1].lower() != 'file':
        raise DownloadError(f'Unsupported address {location}: use a path, or http://, https:// or file://')
    host, slash, path = location[len(scheme[0]) :].partition('/')
    if not slash or host not in ('', 'localhost'):
        raise DownloadError(f'{location} is not a file on this machine: use file:// and an absolute path, file:///...')
    return urllib.request.url2pathname(slash + path)


def _download_to_cache(source: Source, cache_dir: str | None, num_attempts: int, verbose: bool) -> Path:
    """Return the path of the cached file of `source`; download it first if it is not cached yet."""
    url, sha256 = source.url, source.sha256
    path = cache_path(url, cache_dir)
    try:
        cached = cached_file(url, cache_dir, sha256)
        if cached is not None:
            return cached
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_partials(path.parent)
        with exclusive_partial(path.parent, url, verbose) as partial:
            # Another process may have downloaded the file while this one was waiting.
            cached = cached_file(url, cache_dir, sha256)
            if cached is None:
                _download(source, partial, path, num_attempts, verbose)
                partial.finish(path)
            return cached or path
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f'could not download {url} to {path.parent} ({error.strerror or error}): check free space and '
            'permissions there, or set DNNLIB_CACHE_DIR to another folder'
        ) from error


def _download(source: Source, partial: PartialFile, target: Path, num_attempts: int, verbose: bool) -> None:
    """Complete `partial`, in as many attempts as needed. `target` is only mentioned in the error message."""
    largest_size = partial.size if partial.resumable_version() else 0
    if verbose:
        resuming = f' (resuming after {largest_size:,} bytes)' if largest_size else ''
        _print_status(f'Downloading {source.url}{resuming}')
    num_failures = 0
    while True:
        try:
            _attempt(source, partial, verbose)
            return
        except TransferFailed as failure:
            if partial.size >= largest_size + _PROGRESS_BYTES:
                largest_size = partial.size
                num_failures = 0
            num_failures += 1
            if not failure.retry or num_failures >= num_attempts:
                raise DownloadError(_failure_sentence(source, failure, num_failures, partial, target)) from failure
            backoff_sec = min(_FIRST_RETRY_DELAY_SEC * 2 ** (num_failures - 1), _LONGEST_RETRY_DELAY_SEC)
            wait_sec = max(backoff_sec, failure.wait_sec)
            if verbose:
                _print_status(f'  {failure}; retrying ({num_failures + 1} of {num_attempts}) in {wait_sec:.3g} s')
            time.sleep(wait_sec)


def _attempt(source: Source, partial: PartialFile, verbose: bool) -> None:
    """Start or continue `partial`; raise TransferFailed unless it is complete and intact afterwards."""
    version = partial.resumable_version()
    is_resumed = version is not None
    if version is None or partial.size != version.size:
        transfer(source, partial, version, verbose)
    defect = find_defect(partial.path, source.sha256)
    if defect is not None:
        partial.discard()
        # A file that arrived in several parts may be intact if it arrives in one.
        raise TransferFailed(defect, retry=is_resumed)


def _failure_sentence(
    source: Source, failure: TransferFailed, num_failures: int, partial: PartialFile, target: Path
) -> str:
    attempts = f', {num_failures} attempts' if num_failures > 1 else ''
    resumable = f'the next call resumes after {partial.size:,} bytes; ' if partial.resumable_version() else ''
    defect = find_defect(target, source.sha256) if target.is_file() else None
    present = '' if defect is None else f' to replace the present file ({defect})'
    return (
        f'could not download {source.url} ({failure}{attempts}): {resumable}check the address and the network, or '
        f'download the file another way and save it as {target}{present}'
    )


def _print_status(text: str) -> None:
    print(message_line(text), file=sys.stderr, flush=True)
