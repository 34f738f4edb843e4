#!/usr/bin/env python3
"""Puts what the workspace needs and Cargo cannot fetch into `.native/`, from wheels pinned by hash.

    python3 setup/install.py cpu           libtorch and ONNX Runtime     -> .native/libtorch, .native/onnxruntime
    python3 setup/install.py cuda          their CUDA halves             -> .native/cuda
    python3 setup/install.py clients-test  Python clients for the tests  -> .native/clients-test

A wheel is a zip file, so libtorch and ONNX Runtime come out of the wheels that PyPI serves, whichever Python runs pip:
no second package manager, and no archive server that a network may block. Each list beside this file names every wheel
with its SHA-256. Everything happens in a temporary folder; what was checked is renamed into place, and a stamp is
written last. So an interrupted run leaves nothing that looks finished, and the next one starts that part again.
The stamp holds the hash of the list and of this file, and the size of every file: a run with nothing to do is short.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TORCH_VERSION = "2.11.0"
# The wheels ask for glibc 2.28 (their tag is manylinux_2_28).
GLIBC = (2, 28)
# `pip download` takes several --platform since 20.3.
PIP = (20, 3)
# The Python for which wheels are chosen. Their libraries are the same for each, so any Python may run pip.
WHEELS_FOR = ["--implementation", "cp", "--python-version", "3.11", "--abi", "cp311", "--abi", "none"]
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 25, 18, 17)] + ["manylinux2014_x86_64"]


class Refusal(Exception):
    """Why set-up stops, in one sentence, saying what to do."""


# -- What is kept of the wheels ---------------------------------------------------------------------------------------

# libtorch_cpu.so needs the two libraries of CUDA even without a GPU: it does not start without them.
TORCH_CPU = {"torch/lib/libtorch_cpu.so", "torch/lib/libc10.so", "torch/lib/libgomp.so.1"}
CUDA_FOR_CPU = {"libcudart.so.13", "libcupti.so.13"}
# Neither the Python bindings nor what the CPU folder holds already.
NOT_FOR_CUDA = TORCH_CPU | {f"torch/lib/{name}.so" for name in ("libtorch_python", "libshm", "libtorch", "libtorch_global_deps")}


def cpu_place(name):
    """Where a file of a wheel goes under `.native`, or None if it is not needed."""
    base = name.rsplit("/", 1)[-1]
    if name.startswith("torch/include/"):
        return f"libtorch/{name[len('torch/'):]}"
    if name in TORCH_CPU or base in CUDA_FOR_CPU:
        return f"libtorch/lib/{base}"
    if name.startswith("onnxruntime/capi/libonnxruntime.so."):
        return "onnxruntime/lib/libonnxruntime.so.1"
    return licence_place(name, {"torch": "libtorch", "nvidia_cuda": "libtorch", "onnxruntime": "onnxruntime"})


def cuda_place(name):
    """Like `cpu_place`. All libraries lie in one folder, so that each finds the others beside itself."""
    base = name.rsplit("/", 1)[-1]
    if name in NOT_FOR_CUDA:
        return None
    if name.startswith("torch/lib/lib") and ".so" in base:
        return f"lib/{base}"
    if name.startswith("nvidia/") and "/lib/" in name and ".so" in base:
        return f"lib/{base}"
    if name.startswith("onnxruntime/capi/libonnxruntime.so."):
        return "lib/libonnxruntime.so.1"
    if name.startswith("onnxruntime/capi/libonnxruntime_providers_") and "tensorrt" not in base:
        return f"lib/{base}"
    return licence_place(name, {"": "."})


def licence_place(name, folders):
    """Licences travel with what they cover."""
    parts = name.split("/")
    if parts[-1].lower().split(".")[0] not in ("license", "notice", "thirdpartynotices"):
        return None
    for prefix, folder in folders.items():
        if parts[0].startswith(prefix) and (".dist-info" in parts[0] or parts[0] == "onnxruntime"):
            return f"{folder}/licences/{parts[0].split('-')[0]}-{parts[-1]}"
    return None


# -- The parts --------------------------------------------------------------------------------------------------------


def finish_cpu(folder):
    lib = folder / "libtorch/lib"
    # torch-sys asks the linker for -ltorch: this text stands for the 40 kB library that would need the CUDA half.
    (lib / "libtorch.so").write_text("INPUT(-ltorch_cpu -lc10)\n")
    # Without this file torch-sys skips its check of the version, silently.
    (folder / "libtorch/build-version").write_text(f"{TORCH_VERSION}+cpu\n")
    require(folder, [
        "libtorch/include/torch/csrc/api/include/torch/torch.h", "libtorch/include/ATen/ATen.h", "libtorch/include/c10/macros/Macros.h",
        *(f"libtorch/lib/{name}" for name in ("libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13")),
        "onnxruntime/lib/libonnxruntime.so.1",
    ])
    loads(lib / "libtorch_cpu.so")
    loads(folder / "onnxruntime/lib/libonnxruntime.so.1")


def finish_cuda(folder):
    require(folder, [f"lib/{name}" for name in (
        "libtorch_cuda.so", "libc10_cuda.so", "libcudnn.so.9", "libcublas.so.13", "libnccl.so.2", "libnvrtc.so.13",
        "libonnxruntime.so.1", "libonnxruntime_providers_cuda.so", "libonnxruntime_providers_shared.so")])


def require(folder, names):
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise Refusal(f"the wheels do not hold {', '.join(missing)}: the list and {Path(__file__).name} do not fit each other")


def loads(library):
    """Opens a library in a process of its own, as a program will when it starts."""
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)"
    result = subprocess.run([sys.executable, "-c", code, str(library)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if result.returncode:
        last = (result.stderr.decode(errors="replace").strip().splitlines() or [f"status {result.returncode}"])[-1]
        raise Refusal(f"{library.name} was unpacked but does not load on this machine: {last}")


class Wheels:
    """Native libraries: wheels downloaded, and a part of their files kept."""

    def __init__(self, name, place, finish, owns, gigabytes):
        self.name, self.place, self.finish, self.owns, self.gigabytes = name, place, finish, owns, gigabytes

    def fill(self, folder, packages):
        wheels = folder / "wheels"
        out = folder / "out"
        platforms = [word for tag in PLATFORMS for word in ("--platform", tag)]
        pip(["download", "--no-deps", "--only-binary=:all:", *WHEELS_FOR, *platforms, "-d", str(wheels)], packages)
        for wheel in sorted(wheels.glob("*.whl")):
            unpack(wheel, out, self.place)
            wheel.unlink()
        self.finish(out)
        return out


class Clients:
    """Python packages, whole, in a folder for PYTHONPATH."""

    owns, gigabytes = None, 1

    def __init__(self, name):
        self.name = name

    def fill(self, folder, packages):
        out = folder / "out"
        pip(["install", "--no-deps", "--only-binary=:all:", "--no-compile", "--target", str(out)], packages)
        return out


PARTS = {
    # `owns`: the folders directly under .native that the part fills. None: one folder of the part's name.
    "cpu": Wheels("cpu", cpu_place, finish_cpu, ["libtorch", "onnxruntime"], 3),
    "cuda": Wheels("cuda", cuda_place, finish_cuda, None, 12),
    "clients-test": Clients("clients-test"),
}


# -- Doing it ---------------------------------------------------------------------------------------------------------


def install(part, packages, native):
    """Brings `part` into the folder `native` as its list `packages` says. True if there was something to do."""
    stamp = native / f".stamp-{part.name}"
    wanted = identity(part, packages)
    if is_done(stamp, wanted, native):
        return False
    native.mkdir(parents=True, exist_ok=True)
    with locked(native / ".lock"):
        if is_done(stamp, wanted, native):
            return False
        check_room(native, part.gigabytes)
        temporary = native / f".unfinished-{part.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            out = part.fill(temporary, packages)
            stamp.unlink(missing_ok=True)
            moves = [(out / name, native / name) for name in part.owns] if part.owns else [(out, native / part.name)]
            for source, target in moves:
                shutil.rmtree(target, ignore_errors=True)
                source.rename(target)
            written = temporary / "stamp"
            written.write_text("\n".join([wanted, *sizes(native, [target for _, target in moves])]) + "\n")
            written.rename(stamp)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return True


def identity(part, packages):
    """Changes when the list or this program changes, and for what one Python only can import, with the Python."""
    python = platform.python_version_tuple()[:2] if isinstance(part, Clients) else ()
    return hashlib.sha256(packages.read_bytes() + Path(__file__).read_bytes() + "".join(python).encode()).hexdigest()


def sizes(native, folders):
    """`size path` of every file; byte code that Python writes beside a module does not count."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                yield f"{path.stat().st_size} {path.relative_to(native)}"


def is_done(stamp, wanted, native):
    try:
        first, *files = stamp.read_text().splitlines()
    except (OSError, ValueError):
        return False
    if first != wanted:
        return False
    for line in files:
        size, name = line.split(" ", 1)
        try:
            if os.stat(native / name).st_size != int(size):
                return False
        except OSError:
            return False
    return True


@contextlib.contextmanager
def locked(path):
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("set-up: another set-up runs in this folder; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_room(native, gigabytes):
    free = shutil.disk_usage(native).free / 1e9
    if free < gigabytes:
        raise Refusal(f"{native} has {free:.1f} GB of free space, and set-up needs {gigabytes} GB while it unpacks")


def unpack(wheel, out, place):
    """Copies out of a wheel the files that `place` wants."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            target = None if entry.is_dir() else place(entry.filename)
            if target is None:
                continue
            path = out / target
            if ".." in Path(target).parts:
                raise Refusal(f"{wheel.name} names a file outside its own folder: {entry.filename}")
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, open(path, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)


def pip(arguments, packages):
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--progress-bar", "off", "--disable-pip-version-check",
               "--no-input", "--require-hashes", "-r", str(packages)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if result.returncode:
        said = result.stdout.decode(errors="replace").strip()
        if "DO NOT MATCH THE HASHES" in said:
            raise Refusal(f"a downloaded package does not have the hash that {packages.name} states, so nothing was installed; pip said:\n{said}")
        raise Refusal(f"pip could not get the packages of {packages.name} (is the network up?); it said:\n{said}")


# -- What the machine must be -----------------------------------------------------------------------------------------


def check_platform(system, machine, libc):
    """Refuses, by name, a platform for which there are no wheels here."""
    if (system, machine) != ("Linux", "x86_64"):
        raise Refusal(f"this is {system} on {machine}; the pinned libraries exist for Linux on x86_64 only")
    if not libc.startswith("glibc "):
        raise Refusal(f"this Linux has the C library `{libc or 'unknown'}`; the pinned libraries need glibc (Alpine's musl does not do)")
    version = tuple(int(number) for number in libc.split()[1].split(".")[:2])
    if version < GLIBC:
        raise Refusal(f"this Linux has glibc {libc.split()[1]}; the pinned libraries need {GLIBC[0]}.{GLIBC[1]} or newer")


def check_tools(part):
    if sys.version_info < (3, 8):
        raise Refusal(f"python3 is {platform.python_version()}; 3.8 or newer is needed")
    result = subprocess.run([sys.executable, "-m", "pip", "--version"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    words = result.stdout.decode().split()
    if result.returncode or len(words) < 2:
        raise Refusal(f"{sys.executable} has no pip: install it (Debian and Ubuntu: `apt-get install python3-pip`)")
    if tuple(int(number) for number in words[1].split(".")[:2]) < PIP:
        raise Refusal(f"pip is {words[1]}; {PIP[0]}.{PIP[1]} or newer is needed (`python3 -m pip install --upgrade pip`)")
    if part == "cpu":
        for tool, how in (("cargo", "Rust, https://rustup.rs"), ("g++", "Debian and Ubuntu: `apt-get install g++`")):
            if shutil.which(tool) is None:
                raise Refusal(f"`{tool}` is not on the PATH: install it ({how})")


def libc_name():
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def main(arguments):
    if len(arguments) != 1 or arguments[0] not in PARTS:
        print(f"usage: install.py {'|'.join(PARTS)}", file=sys.stderr)
        return 2
    part = PARTS[arguments[0]]
    packages = HERE / f"{part.name}.txt"
    native = ROOT / ".native"
    try:
        if not is_done(native / f".stamp-{part.name}", identity(part, packages), native):
            check_platform(platform.system(), platform.machine(), libc_name())
            check_tools(part.name)
            print(f"set-up: getting the packages of setup/{packages.name}", flush=True)
            install(part, packages, native)
            print(f"set-up: {part.name} is ready in {native}", flush=True)
    except Refusal as refusal:
        print(f"set-up: {refusal}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: interrupted; `make setup` starts this part again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
