"""The C library's allocator, set up for tensors on a CPU.

By default glibc gets each large piece of memory from the kernel and gives it back as soon as it is freed. The next
tensor then starts with pages that the kernel has to clear and map anew, one fault for each 4 KiB: in a generator of
1024 pixels that takes longer than the convolutions. Memory that is kept costs nothing more until the peak, which stays
about where it was.
"""

import ctypes
import functools
import os

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = -1

_SETTINGS = ('MALLOC_MMAP_MAX_', 'MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_', 'MALLOC_TOP_PAD_')


@functools.cache
def keep_freed_memory() -> bool:
    """Have the allocator of this process keep what is freed for what comes next; returns whether that was done.

    Only glibc is spoken to, and not where the environment sets its allocator (`MALLOC_...`, `GLIBC_TUNABLES`). It is
    for programs to call, first thing, in each of their processes; forked ones have it from their parent.
    """
    if any(name in os.environ for name in _SETTINGS) or 'glibc.malloc' in os.environ.get('GLIBC_TUNABLES', ''):
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt = library.mallopt
        _ = library.gnu_get_libc_version
    except (OSError, TypeError, AttributeError):  # Windows, macOS, musl
        return False
    return mallopt(_M_MMAP_MAX, 0) == 1 and mallopt(_M_TRIM_THRESHOLD, _NEVER) == 1
