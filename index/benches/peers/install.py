#!/usr/bin/env python3
"""Installs the libraries that the index is compared with into `.native/peers`, one by one.

    python3 index/benches/peers/install.py

A library that cannot be had here (no wheel for this Python, no compiler for hnswlib's sources) is named with pip's last
words and left out of the comparison; NumPy is needed. What is there in the right version already is left alone.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parents[2] / ".native" / "peers"


def wanted():
    lines = (line.strip() for line in (HERE / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def is_there(requirement):
    name, version = requirement.split("==")
    found = FOLDER.glob(f"{name.replace('-', '_').lower()}-{version}.dist-info")
    return any(True for _ in found)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    missing = []
    for requirement in wanted():
        if is_there(requirement):
            continue
        print(f"peers: installing {requirement}", file=sys.stderr, flush=True)
        # NumPy comes first; the others must not bring another one along.
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--upgrade",
                   "--target", str(FOLDER), requirement, "-c", str(HERE / "requirements.txt")]
        result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if result.returncode:
            said = [line for line in result.stderr.decode(errors="replace").splitlines() if line.strip()]
            missing.append((requirement, said[-1] if said else f"pip exits {result.returncode}"))
    for requirement, reason in missing:
        print(f"peers: {requirement} cannot be installed here: {reason}", file=sys.stderr)
    if any(requirement.startswith("numpy==") for requirement, _ in missing):
        sys.exit(1)


if __name__ == "__main__":
    main()
