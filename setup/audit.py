#!/usr/bin/env python3
"""Asks cargo-deny whether the dependencies are what `.deny.toml` allows: bans, duplicates, licences, sources, advisories.

    python3 setup/audit.py

All but the advisories works offline. Their database is fetched anew where that is possible, else the copy that lies in
Cargo's folder is taken, and without one a line says that they were not checked. cargo-deny is the one on the PATH, or
is built once into `.native/cargo-deny` (several minutes).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION = "0.20.2"
OFFLINE = ["bans", "licenses", "sources"]
# git waits for a password or a silent host without these.
GIT = {"GIT_TERMINAL_PROMPT": "0", "GIT_HTTP_LOW_SPEED_LIMIT": "1", "GIT_HTTP_LOW_SPEED_TIME": "20"}
FETCH_PATIENCE_S = 120


def cargo_deny():
    """The program, found or built."""
    found = shutil.which("cargo-deny")
    if found:
        return found
    folder = ROOT / ".native" / "cargo-deny"
    program = folder / "bin" / "cargo-deny"
    if not (program.is_file() and VERSION in said([program, "--version"])):
        print(f"audit: building cargo-deny {VERSION} into {folder}, once", flush=True)
        # Not in our target folder: its artefacts have no other use.
        command = ["cargo", "install", "--locked", "--quiet", "--root", str(folder), "--version", VERSION, "--force", "cargo-deny"]
        environment = {name: value for name, value in os.environ.items() if name != "CARGO_TARGET_DIR"}
        status = subprocess.call(command, cwd=str(folder.parent if folder.parent.is_dir() else ROOT), env=environment)
        if status:
            sys.exit("audit: cargo-deny could not be built (is the network up?)")
    return str(program)


def said(command):
    result = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return result.stdout.decode(errors="replace") if result.returncode == 0 else ""


def deny(program, *arguments):
    where = ["--manifest-path", str(ROOT / "Cargo.toml"), "--config", str(ROOT / ".deny.toml")]
    return [program, *where, "--workspace", "--locked", *arguments]


def database(program):
    """Where the advisories come from, in words; None if they cannot be had."""
    try:
        fetched = subprocess.run(deny(program, "fetch", "db"), env={**os.environ, **GIT}, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, timeout=FETCH_PATIENCE_S).returncode == 0
    except subprocess.TimeoutExpired:
        fetched = False
    if fetched:
        return "fetched for this"
    folder = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo") / "advisory-dbs"
    return f"an older copy, in {folder}" if any(folder.glob("*/crates")) else None


def main():
    program = cargo_deny()
    print(f"audit: {said([program, '--version']).strip()}", flush=True)
    status = subprocess.call(deny(program, "--offline", "check", *OFFLINE), cwd=str(ROOT))
    found = database(program)
    if found is None:
        print("audit: advisories were NOT checked: their database cannot be fetched from here, and there is no copy of it")
    else:
        print(f"audit: advisories, {found}", flush=True)
        status |= subprocess.call(deny(program, "--offline", "check", "advisories"), cwd=str(ROOT))
    print("audit: refused" if status else "audit: passed")
    return 1 if status else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(f"audit: {error}")
