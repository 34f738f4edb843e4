"""The page cache of files: emptied, filled and looked at.

Emptying needs no root: what is not dirty and not mapped by anybody is dropped at `posix_fadvise(DONTNEED)`. Whether it is
gone is asked of the kernel (mincore). What lies below a virtual machine, in the host's cache or the disk's own, stays.
"""

import ctypes
import mmap
import os
from pathlib import Path

PAGE = mmap.PAGESIZE
TRIES = 20

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


def files_of(path):
    path = Path(path)
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def resident(path):
    """Bytes of a file or of all files of a folder that lie in the page cache."""
    total = 0
    for file in files_of(path):
        size = file.stat().st_size
        if size == 0:
            continue
        descriptor = os.open(file, os.O_RDONLY)
        try:
            address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
            if address == ctypes.c_void_p(-1).value:
                raise OSError(ctypes.get_errno(), "cannot map", str(file))
            pages = (ctypes.c_ubyte * -(-size // PAGE))()
            failed = libc.mincore(address, size, pages)
            error = ctypes.get_errno()
            libc.munmap(address, size)
            if failed:
                raise OSError(error, "mincore", str(file))
            total += sum(page & 1 for page in bytes(pages)) * PAGE
        finally:
            os.close(descriptor)
    return total


def drop(path):
    """Takes all of it out of the page cache.

    # Raises
    RuntimeError if some of it stays: a figure called cold that is not would be worse than none.
    """
    for _ in range(TRIES):
        for file in files_of(path):
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
        left = resident(path)
        if left == 0:
            return
    raise RuntimeError(f"{left} bytes of {path} stay in the page cache: somebody has it mapped")


def fill(path):
    """Reads all of it."""
    for file in files_of(path):
        with open(file, "rb", buffering=0) as open_file:
            while open_file.read(1 << 22):
                pass
