#!/usr/bin/env python3
"""Set-up as a newcomer meets it: a fresh clone, only the tools that the README names on the PATH, no variable set.

    python3 setup/check_setup.py [--target FOLDER] [--only PART …] [--keep]

What is committed is cloned into a temporary folder. Parts, in this order:

    interrupted   `make setup` is killed while it works, and mended by the next
    again         with nothing to do it takes less than a second
    hash          a wheel with another hash is refused, and what is installed stays
    build         `cargo build --workspace`, `cargo test`, and the optimised programs
    programs      started from `/` with an empty environment, they train, export, and look a model over
    elsewhere     the same with CARGO_TARGET_DIR outside the clone

All of it compiles the workspace twice (development and optimised). `--target` starts from a copy of a finished target
folder and leaves the compiling of dependencies out.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Rust, g++, make, python3 with pip, and what these call: a linker, an assembler, a shell.
TOOLS = ["make", "sh", "env", "g++", "c++", "gcc", "cc", "ld", "as", "ar"]
# How a machine reaches the network, and where rustup keeps Rust, is its own affair.
KEPT = re.compile(r"HOME$|CARGO_HOME$|RUSTUP_|PIP_|CARGO_(NET|HTTP|REGISTR)|SSL_CERT|(https?|no|all)_proxy$", re.IGNORECASE)
# The smallest run that is one: the demo's recipe with a narrow network, for one epoch.
RECIPE, SMALL = "tests/demo/cells.toml", ["epochs=1", "encoder.backbone.width=4"]


class Fault(Exception):
    pass


class Newcomer:
    def __init__(self, folder):
        self.clone, self.bin = folder / "clone", folder / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            if found:
                (self.bin / tool).symlink_to(Path(found).resolve() if tool != "sh" else found)
        # Not pyenv's or rustup's stand-ins, which need more around them.
        (self.bin / "python3").symlink_to(Path(sys.executable).resolve())
        sysroot = subprocess.run(["rustc", "--print", "sysroot"], stdout=subprocess.PIPE, check=True).stdout.decode().strip()
        for tool in ("cargo", "rustc", "rustdoc"):
            (self.bin / tool).symlink_to(Path(sysroot) / "bin" / tool)
        self.variables = {key: value for key, value in os.environ.items() if KEPT.match(key)}
        self.variables["PATH"] = str(self.bin)
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.clone)], check=True)
        if subprocess.run(["git", "status", "--porcelain"], cwd=str(ROOT), stdout=subprocess.PIPE).stdout:
            print("check-setup: what is not committed is not in the clone")

    def start(self, *command, **variables):
        return subprocess.Popen(command, cwd=str(self.clone), env={**self.variables, **variables}, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)

    def run(self, *command, status=0, **variables):
        """What a command says; it must end with `status`."""
        print(f"  $ {' '.join(command)}", flush=True)
        start = time.monotonic()
        process = self.start(*command, **variables)
        text = process.communicate()[0].decode(errors="replace")
        if process.returncode != status:
            raise Fault(f"`{' '.join(command)}` ended with status {process.returncode} and not {status}:\n{text[-4000:]}")
        print(f"    {time.monotonic() - start:.1f} s", flush=True)
        return text

    def native(self):
        """Name, size and time of all that is installed."""
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in (self.clone / ".native").rglob("*")
                if path.is_file() and path.name != ".lock"}


def interrupted(newcomer):
    native = newcomer.clone / ".native"
    for moment in (0.5, 4.0):
        process = newcomer.start("make", "setup")
        patience = time.monotonic() + 60
        while not (native / ".unfinished-cpu").is_dir() and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.01)
        time.sleep(moment)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if (native / ".stamp-cpu").exists():
                raise Fault("a set-up that was killed looks like a finished one")
            print(f"  killed after {moment} s", flush=True)
        else:
            print(f"  was over within {moment} s: {process.communicate()[0].decode(errors='replace').strip()}")
    newcomer.run("make", "setup")
    if not (native / ".stamp-cpu").is_file() or (native / ".unfinished-cpu").exists():
        raise Fault("the set-up after an interrupted one did not finish")


def again(newcomer):
    newcomer.run("make", "setup")
    before, times = newcomer.native(), []
    for _ in range(5):
        start = time.monotonic()
        newcomer.start("make", "setup").communicate()
        times.append(time.monotonic() - start)
    print(f"  with nothing to do: {min(times):.2f} to {max(times):.2f} s")
    if newcomer.native() != before:
        raise Fault("a set-up with nothing to do changed something")
    if min(times) >= 1.0:
        raise Fault("a set-up with nothing to do took a second or more")


def wrong_hash(newcomer):
    newcomer.run("make", "setup")
    path = newcomer.clone / "setup/cpu.txt"
    text, before = path.read_text(), newcomer.native()
    path.write_text(re.sub(r"sha256:(.)", lambda match: f"sha256:{'0' if match.group(1) != '0' else '1'}", text, count=1))
    said = newcomer.run("make", "setup", status=2)
    path.write_text(text)
    if "does not have the hash that cpu.txt states, so nothing was installed" not in said:
        raise Fault(f"the refusal of a wheel with another hash says:\n{said}")
    if newcomer.native() != before:
        raise Fault("a refused wheel changed what was installed")
    newcomer.run("make", "setup")


def build(newcomer):
    newcomer.run("make", "setup")
    newcomer.run("cargo", "build", "--workspace", "--locked")
    newcomer.run("cargo", "test", "--locked", "--quiet")
    newcomer.run("make", "build")


def programs(newcomer, target=None):
    target = target or newcomer.clone / "target"
    folder = Path(tempfile.mkdtemp(dir=str(newcomer.clone.parent)))

    def run(program, *arguments):
        command = [str(target / "release" / program), *map(str, arguments)]
        result = subprocess.run(command, cwd="/", env={}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        text = result.stdout.decode(errors="replace")
        if result.returncode:
            raise Fault(f"from / with an empty environment, `{' '.join(command)}` ended with status {result.returncode}:\n{text[-4000:]}")
        print(f"  / $ {program} {' '.join(map(str, arguments))}\n      {(text.strip().splitlines() or [''])[-1]}", flush=True)

    run("moco-train", "recipe", "v2")
    settings = ["--threads", "1", *(word for setting in SMALL for word in ("--set", setting))]
    data = newcomer.clone / "tests/data/cells/train"
    run("moco-train", "pretrain", "--config", newcomer.clone / RECIPE, "--data", data, "--out", folder / "run", *settings)
    run("moco-export", "onnx", folder / "run/encoder.safetensors", "-o", folder / "model.onnx")
    run("moco-serve", "check", "--model", folder / "model.onnx", "--data-dir", folder / "data")
    run("moco-demo", "--help")


def elsewhere(newcomer):
    target = newcomer.clone.parent / "elsewhere"
    if not (newcomer.clone / "target/release").is_dir():
        newcomer.run("make", "build")
    # The dependencies are taken along; every package of the workspace is compiled and linked anew.
    (target / "release").mkdir(parents=True)
    shutil.copytree(str(newcomer.clone / "target/release"), str(target / "release"), symlinks=True, dirs_exist_ok=True)
    for path in [*target.glob("release/moco-*"), *target.glob("release/.fingerprint/moco-*")]:
        shutil.rmtree(str(path)) if path.is_dir() else path.unlink()
    newcomer.run("make", "build", CARGO_TARGET_DIR=str(target))
    programs(newcomer, target)


PARTS = {"interrupted": interrupted, "again": again, "hash": wrong_hash, "build": build, "programs": programs, "elsewhere": elsewhere}


def main(arguments):
    parser = argparse.ArgumentParser(description="Set-up as a newcomer meets it, in a fresh clone.")
    parser.add_argument("--target", type=Path, help="a finished target folder to start from")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="these parts alone")
    parser.add_argument("--keep", action="store_true", help="leave the folder for a look")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="moco-newcomer-"))
    print(f"check-setup: in {folder}")
    try:
        newcomer = Newcomer(folder)
        if options.target:
            subprocess.run(["cp", "-a", "--reflink=auto", str(options.target), str(newcomer.clone / "target")], check=True)
        for part in PARTS:
            if part in options.only:
                print(f"{part}", flush=True)
                PARTS[part](newcomer)
    finally:
        if not options.keep:
            shutil.rmtree(str(folder), ignore_errors=True)
    print(f"check-setup: passed ({', '.join(part for part in PARTS if part in options.only)})")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Fault as fault:
        sys.exit(f"check-setup: {fault}")
    except KeyboardInterrupt:
        sys.exit(130)
