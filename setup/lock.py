#!/usr/bin/env python3
"""Writes `clients-test.txt` again: the Python clients, all they need, and the hash of every wheel that may be chosen.

    python3 setup/lock.py

pip is asked once for each Python, and nothing is kept of what it resolves but names, versions and hashes. Requirements
that hold for some Pythons only are worked out here, since pip judges them for the Python it runs under. Needs pip 24 or
newer and the network; the file it writes needs neither of these.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

CLIENTS = ["openai", "qdrant-client", "onnx", "numpy"]
PYTHONS = ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14"]
PLATFORMS = ["manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 29))]


def resolve(python, wanted):
    """What pip would install for `python`: name -> (version, sha256, requirements)."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        abi = f"cp{python.replace('.', '')}"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--disable-pip-version-check",
                   "--target", folder, "--report", str(report), "--only-binary=:all:", "--implementation", "cp",
                   "--python-version", python, "--abi", abi, "--abi", "abi3", "--abi", "none"]
        command += [word for tag in PLATFORMS for word in ("--platform", tag)] + wanted
        subprocess.run(command, check=True)
        found = {}
        for item in json.loads(report.read_text())["install"]:
            about, source = item["metadata"], item["download_info"]["archive_info"]
            extras = set(item.get("requested_extras", []))
            found[canonicalize_name(about["name"])] = (about["version"], source["hashes"]["sha256"], about.get("requires_dist", []), extras)
        return found


def closed(python):
    """`resolve`, asked again until no requirement that holds for `python` is missing; what is needed for others is left out."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "implementation_name": "cpython",
                   "platform_python_implementation": "CPython", "sys_platform": "linux", "platform_system": "Linux",
                   "platform_machine": "x86_64", "os_name": "posix"}
    roots = list(CLIENTS)
    while True:
        found = resolve(python, roots)
        needed, missing = {}, set()
        waiting = [Requirement(client) for client in CLIENTS]
        while waiting:
            requirement = waiting.pop()
            name = canonicalize_name(requirement.name)
            if name not in found:
                missing.add(f"{requirement.name}{requirement.specifier}")
                continue
            seen = needed.setdefault(name, set())
            extras = {""} | requirement.extras
            if extras <= seen:
                continue
            seen |= extras
            for text in found[name][2]:
                child = Requirement(text)
                if child.marker is None or any(child.marker.evaluate({**environment, "extra": extra}) for extra in seen):
                    waiting.append(child)
        if not missing:
            return {name: found[name][:2] for name in needed}
        roots += sorted(missing)


def main():
    pins = {}
    for python in PYTHONS:
        print(f"Python {python}", file=sys.stderr)
        for name, (version, digest) in closed(python).items():
            hashes, pythons = pins.setdefault((name, version), (set(), []))
            hashes.add(digest)
            pythons.append(python)
    lines = [f"# Written by lock.py for Python {PYTHONS[0]} to {PYTHONS[-1]} on Linux x86_64: {', '.join(CLIENTS)} and what they need."]
    for (name, version), (hashes, pythons) in sorted(pins.items()):
        marker = "" if pythons == PYTHONS else " ; " + " or ".join(f'python_version == "{python}"' for python in pythons)
        lines.append(f"{name}=={version}{marker}" + "".join(f" \\\n    --hash=sha256:{digest}" for digest in sorted(hashes)))
    (Path(__file__).resolve().parent / "clients-test.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
