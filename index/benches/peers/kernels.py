"""Another instruction set for all: what `--kernel avx2` does.

Most libraries choose their kernels by CPUID and cannot be told otherwise. no_avx512.c is preloaded, which answers CPUID
without AVX-512, AMX and AVX-VNNI, where the machine lets it (`cpuid_fault` in /proc/cpuinfo). hnswlib is compiled for the
machine it is installed on and is taken from a second folder, compiled for x86-64-v3 (see install.py); ours is told by its
own variable as well. Where the machine does not let it, only those that can be told take part: ours, hnswlib, and faiss by
FAISS_OPT_LEVEL.
"""

import os
import subprocess
import sys
from pathlib import Path

from dataset import ROOT, say

HERE = Path(__file__).resolve().parent
HIDING = ROOT / "target" / "bench-indexes" / "no_avx512.so"
#: hnswlib without the machine's own instructions.
HNSWLIB = ROOT / ".native" / "peers-avx2"
#: Set in the process that was switched: `hidden` or `told`.
SWITCHED = "MOCO_PEERS_SWITCHED"


def natural():
    """The environment of a process that uses whatever the machine has: indexes are built so."""
    return {name: value for name, value in os.environ.items() if name not in (SWITCHED, "LD_PRELOAD", "FAISS_OPT_LEVEL", "MOCO_INDEX_KERNEL")}


def of_ours(kernel):
    """The environment of `moco-index`."""
    return {**os.environ, "MOCO_INDEX_KERNEL": kernel} if kernel else natural()


def switch(kernel):
    """Starts this program again with the instructions hidden, unless it was."""
    if HNSWLIB.is_dir() and SWITCHED in os.environ:
        sys.path.insert(0, str(HNSWLIB))
    if not kernel or SWITCHED in os.environ:
        return
    environment = {**os.environ, SWITCHED: "told", "FAISS_OPT_LEVEL": kernel.upper()}
    if reason := why_not_hidden():
        say(f"AVX-512 cannot be hidden here: {reason}; only those that can be told take part")
    else:
        environment |= {SWITCHED: "hidden", "LD_PRELOAD": str(HIDING)}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def why_not_hidden():
    """Compiles the library and tries it; `None` if it works."""
    HIDING.parent.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(HIDING), str(HERE / "no_avx512.c")], check=True, capture_output=True)
        tried = subprocess.run([sys.executable, "-c", "pass"], env={**os.environ, "LD_PRELOAD": str(HIDING)}, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return str(error)
    return None if tried.returncode == 0 else tried.stderr.decode(errors="replace").strip() or f"exit status {tried.returncode}"


def how(name):
    """How this library was switched; `None` if it was not."""
    hidden = os.environ.get(SWITCHED) == "hidden"
    if name.startswith("moco-index"):
        return "MOCO_INDEX_KERNEL"
    if name == "hnswlib":
        return "compiled for x86-64-v3" if HNSWLIB.is_dir() else None
    if name.startswith("faiss"):
        return "FAISS_OPT_LEVEL and CPUID" if hidden else "FAISS_OPT_LEVEL"
    return "CPUID" if hidden else None
