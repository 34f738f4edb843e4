#!/usr/bin/env python3
"""Installs the libraries that the index is compared with into `.native/peers`, one by one.

    python3 index/benches/peers/install.py

A library that cannot be had here (no wheel for this Python, no compiler for hnswlib's sources) is named with pip's last
words and left out of the comparison; NumPy is needed. What is there in the right version already is left alone.
hnswlib is compiled a second time, into `.native/peers-avx2`, for what kernels.py says.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parents[2] / ".native" / "peers"
AVX2_FOLDER = HERE.parents[2] / ".native" / "peers-avx2"


def wanted():
    lines = (line.strip() for line in (HERE / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def is_there(requirement, folder=FOLDER):
    name, version = requirement.split("==")
    found = folder.glob(f"{name.replace('-', '_').lower()}-{version}.dist-info")
    return any(True for _ in found)


def install(requirement, folder, *options, environment=None):
    """Why it could not be installed; `None` if it is there."""
    if is_there(requirement, folder):
        return None
    print(f"peers: installing {requirement} into {folder.name}", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--upgrade",
               "--target", str(folder), requirement, "-c", str(HERE / "requirements.txt"), *options]
    result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **(environment or {})})
    if result.returncode == 0:
        return None
    said = [line for line in result.stderr.decode(errors="replace").splitlines() if line.strip()]
    return said[-1] if said else f"pip exits {result.returncode}"


def main():
    # NumPy comes first; the others must not bring another one along.
    missing = [(requirement, install(requirement, FOLDER)) for requirement in wanted()]
    hnswlib = next(requirement for requirement in wanted() if requirement.startswith("hnswlib=="))
    flags = {"HNSWLIB_NO_NATIVE": "1", "CFLAGS": "-march=x86-64-v3", "CXXFLAGS": "-march=x86-64-v3"}
    missing.append((f"{hnswlib} for AVX2", install(hnswlib, AVX2_FOLDER, "--no-deps", "--no-binary", "hnswlib", environment=flags)))
    missing = [(requirement, reason) for requirement, reason in missing if reason]
    for requirement, reason in missing:
        print(f"peers: {requirement} cannot be installed here: {reason}", file=sys.stderr)
    if any(requirement.startswith("numpy==") for requirement, _ in missing):
        sys.exit(1)


if __name__ == "__main__":
    main()
