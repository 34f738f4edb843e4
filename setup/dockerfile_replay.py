#!/usr/bin/env python3
"""Replays the Dockerfile without Docker: its COPY and RUN steps in empty folders, its programs in the files of their image.

    python3 setup/dockerfile_replay.py [--native FOLDER] [--programs FOLDER] [--keep]

Each stage is a folder. COPY copies what `.dockerignore` leaves of the working tree, or what another stage holds; RUN
runs in the stage's folder with an empty environment. Debian's packages are not installed: their names are looked up
where apt knows any, and each command of a RUN must come from the base image or from one of them. At the end the two
images' programs run in a root folder that holds what was copied, and of the base image the C and C++ libraries alone:
a little encoder is trained and exported in one, served and asked for its health in the other.

`--native` takes finished native libraries (a `.native` folder) in place of a download, `--programs` finished programs
(a `target/release` folder) in place of compiling: what they replace is then not checked, and the last line says so.
"""

import argparse
import contextlib
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What the base images bring. rust:…-bookworm stands on buildpack-deps, which has the compilers.
BASES = {
    "rust": {"cargo", "rustc", "g++", "make", "rm", "install", "apt-get"},
    "debian": {"rm", "install", "apt-get"},
}
PACKAGES = {"g++": {"g++"}, "make": {"make"}, "python3": {"python3"}, "python3-pip": set()}
# A command of ours that needs others.
NEEDS = {"make": {"make", "python3"}}
# Of debian:bookworm-slim (apt itself needs the C++ library). Taken from this machine.
BASE_LIBRARIES = ["ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1",
                  "libgcc_s.so.1", "libstdc++.so.6"]
NOT_IN_AN_IMAGE = {"cc", "gcc", "g++", "c++", "ld", "cargo", "rustc", "make", "python3", "pip"}


class Fault(Exception):
    """What is wrong, and in which line of the Dockerfile."""


# -- The Dockerfile ---------------------------------------------------------------------------------------------------


class Stage:
    def __init__(self, base, name, line):
        self.base, self.name, self.line, self.steps = base, name, line, []

    def last(self, keyword):
        """(line, arguments) of the last step of that kind, or None."""
        return next(((line, rest) for line, kind, rest in reversed(self.steps) if kind == keyword), None)


def parse(text):
    """The stages; a step is (line, KEYWORD, rest)."""
    stages, pending, start = [], "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not pending):
            continue
        start = start if pending else number
        pending += line.rstrip()
        if pending.endswith("\\"):
            pending = pending[:-1] + " "
            continue
        keyword, _, rest = pending.strip().partition(" ")
        pending, keyword, rest = "", keyword.upper(), rest.strip()
        if keyword == "FROM":
            words = rest.split()
            if len(words) != 3 or words[1].upper() != "AS":
                raise Fault(f"line {start}: FROM without a name: {rest}")
            stages.append(Stage(words[0], words[2], start))
        elif keyword not in ("RUN", "COPY", "WORKDIR", "ENV", "ARG", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"):
            raise Fault(f"line {start}: {keyword} is not known here")
        elif not stages:
            raise Fault(f"line {start}: {keyword} before any FROM")
        else:
            stages[-1].steps.append((start, keyword, rest))
    return stages


def ignored(path, patterns):
    """Whether `.dockerignore` keeps a path (relative, with `/`) out of the context; its parents count."""
    parts = path.split("/")
    heads = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    # fnmatch's star crosses slashes, as `**` does; no pattern here needs one that does not.
    return any(fnmatch.fnmatch(head, pattern) or (pattern.startswith("**/") and fnmatch.fnmatch(head, pattern[3:]))
               for head in heads for pattern in patterns)


def context(root):
    """The files that a build of `root` gets to see, relative."""
    lines = (root / ".dockerignore").read_text().splitlines()
    patterns = [line.strip().strip("/") for line in lines if line.strip() and not line.startswith("#")]
    files = []
    for folder, folders, names in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not ignored((here / name).as_posix(), patterns)]
        files += [path for path in ((here / name).as_posix() for name in names) if not ignored(path, patterns)]
    return sorted(files)


# -- Replaying --------------------------------------------------------------------------------------------------------


class Replay:
    def __init__(self, folder, native=None, programs=None):
        self.folder, self.native, self.programs = folder, native, programs
        self.roots, self.commands, self.workdirs, self.variables = {}, {}, {}, {}
        self.notes = []

    def stage(self, stage):
        root = self.folder / stage.name
        if stage.base in self.roots:
            base = stage.base
            copy_tree(self.roots[base], root)
            self.commands[stage.name], self.workdirs[stage.name] = set(self.commands[base]), self.workdirs[base]
            self.variables[stage.name] = dict(self.variables[base])
        else:
            image = stage.base.split(":")[0]
            if image not in BASES:
                raise Fault(f"line {stage.line}: the image {stage.base} is not known here")
            if image == "rust":
                self.check_rust(stage)
            root.mkdir()
            self.commands[stage.name], self.workdirs[stage.name], self.variables[stage.name] = set(BASES[image]), "/", {}
        self.roots[stage.name] = root
        for line, keyword, rest in stage.steps:
            print(f"  {line:3}  {keyword} {rest}", flush=True)
            try:
                self.step(stage.name, keyword, rest)
            except Fault as fault:
                raise Fault(f"line {line}: {fault}") from None

    def check_rust(self, stage):
        wanted = re.search(r'^rust-version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)
        if not stage.base.startswith(f"rust:{wanted}-"):
            raise Fault(f"line {stage.line}: the image is {stage.base}, and the root Cargo.toml asks for Rust {wanted}")

    def step(self, name, keyword, rest):
        if keyword in ("ARG", "ENV"):
            for word in shlex.split(rest):
                key, _, value = word.partition("=")
                self.variables[name][key] = value
        elif keyword == "WORKDIR":
            self.workdirs[name] = rest
            self.inside(name, rest).mkdir(parents=True, exist_ok=True)
        elif keyword == "COPY":
            self.copy(name, self.expanded(name, rest).split())
        elif keyword == "RUN":
            for command in self.expanded(name, rest).split("&&"):
                self.run(name, shlex.split(command))

    def expanded(self, name, text):
        def value(match):
            if match.group(1) not in self.variables[name]:
                raise Fault(f"nothing sets {match.group(1)}")
            return self.variables[name][match.group(1)]

        return re.sub(r"\$\{(\w+)\}", value, text)

    def inside(self, name, path):
        """A path of the stage, as a path of this machine."""
        return self.roots[name] / os.path.join(self.workdirs[name], path).lstrip("/")

    def copy(self, name, words):
        origin = None
        while words[0].startswith("--"):
            option, _, value = words.pop(0).partition("=")
            if option != "--from" or value not in self.roots:
                raise Fault(f"COPY {option}={value}: no stage before this one has that name")
            origin = value
        *sources, target = words
        target_is_folder = target.endswith("/") or len(sources) > 1 or target in (".", "./")
        to = self.inside(name, target)
        for source in sources:
            found = self.from_stage(origin, source) if origin else self.from_context(source)
            for path, below in found:
                # Of a folder the contents are copied; a file keeps its name in a folder.
                place = to / below if below else (to / path.name if target_is_folder else to)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, place, follow_symlinks=False)

    def from_context(self, source):
        source = source[2:] if source.startswith("./") else source
        files = context(ROOT)
        if source in files:
            return [(ROOT / source, "")]
        prefix = "" if source in (".", "") else f"{source}/"
        found = [(ROOT / file, file[len(prefix):]) for file in files if file.startswith(prefix)]
        if not found:
            raise Fault(f"the context has no {source}")
        return found

    def from_stage(self, origin, source):
        path = self.roots[origin] / source.lstrip("/")
        if path.is_dir():
            return [(file, file.relative_to(path).as_posix()) for file in sorted(path.rglob("*")) if not file.is_dir() or file.is_symlink()]
        if not path.exists():
            raise Fault(f"the stage {origin} has no {source}")
        return [(path, "")]

    def run(self, name, words):
        program = words[0]
        missing = NEEDS.get(program, {program}) - self.commands[name]
        if missing:
            raise Fault(f"neither the base image nor an installed package brings `{', '.join(sorted(missing))}`")
        if program == "apt-get":
            return self.apt(name, words)
        if program == "cargo" and self.programs:
            return self.take_programs(name)
        if words[:2] == ["make", "setup"] and self.native and not self.inside(name, ".native").exists():
            self.notes.append(f"native libraries taken from {self.native}")
            self.take_native(self.inside(name, ".native"))
        mapped = [words[0]] + [str(self.inside(name, word)) if word.startswith("/") else word for word in words[1:]]
        if os.geteuid():
            # Only root gives files away.
            mapped = drop_options(mapped, "-o", "-g")
        start = time.monotonic()
        # Where Rust lies, and how packages are reached, is this machine's affair.
        kept = re.compile(r"PATH$|HOME$|CARGO_HOME$|RUSTUP_|PIP_|CARGO_(NET|HTTP|REGISTR)|SSL_CERT|(https?|no|all)_proxy$", re.IGNORECASE)
        environment = {key: value for key, value in os.environ.items() if kept.match(key)}
        status = subprocess.call(mapped, cwd=str(self.inside(name, "")), env={**environment, **self.variables[name]})
        if status:
            raise Fault(f"`{' '.join(words)}` ended with status {status}")
        print(f"       {time.monotonic() - start:.0f} s", flush=True)

    def take_native(self, target):
        target.mkdir()
        for name in ("libtorch", "onnxruntime", ".stamp-cpu"):
            copy_tree(self.native / name, target / name)

    def apt(self, name, words):
        if "install" not in words:
            return
        for package in (word for word in words[words.index("install") + 1:] if not word.startswith("-")):
            if package not in PACKAGES:
                raise Fault(f"the package {package} is not known here")
            self.commands[name] |= PACKAGES[package]
            if not known_to_apt(package):
                self.notes.append(f"apt knows no package here, so {package} was taken on trust")

    def take_programs(self, name):
        self.notes.append(f"programs taken from {self.programs}")
        folder = self.inside(name, "target/release")
        folder.mkdir(parents=True)
        for program in sorted(Path(self.programs).glob("moco-*")):
            if program.is_file() and os.access(str(program), os.X_OK):
                shutil.copy2(program, folder)


def copy_tree(source, target):
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)


def drop_options(words, *options):
    kept, skip = [], False
    for word in words:
        if skip or word in options:
            skip = not skip
        else:
            kept.append(word)
    return kept


def known_to_apt(package):
    if shutil.which("apt-cache") is None:
        return False
    return subprocess.run(["apt-cache", "show", package], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


# -- The images -------------------------------------------------------------------------------------------------------


def command_of(stage, keyword):
    """The words of an ENTRYPOINT or a HEALTHCHECK."""
    found = stage.last(keyword)
    if found is None:
        raise Fault(f"the image {stage.name} has no {keyword}")
    line, rest = found
    form = rest[rest.find("["):]
    try:
        words = json.loads(form)
    except ValueError:
        raise Fault(f"line {line}: {keyword} is not in the form [\"program\", …]: a shell would stand between it and its signals") from None
    return words


class Image:
    """A stage's files as the root of a process: nothing else is there."""

    def __init__(self, stage, replay):
        self.stage, self.root = stage, replay.roots[stage.name]
        settings = [word.partition("=") for _, keyword, rest in stage.steps if keyword == "ENV" for word in shlex.split(rest)]
        self.variables = {key: value for key, _, value in settings}
        self.own = [path for path in sorted(self.root.rglob("*")) if path.is_file() and not path.is_symlink()]

    def check_files(self):
        size = sum(path.stat().st_size for path in self.own)
        print(f"image {self.stage.name}: {len(self.own)} files, {size / 1e6:.0f} MB over {self.stage.base}", flush=True)
        tools = sorted(path.name for path in self.own if path.name in NOT_IN_AN_IMAGE)
        headers = [path for path in self.own if path.suffix in (".h", ".rs", ".o", ".rlib")]
        if tools or headers:
            what = ", ".join(tools) or headers[0].relative_to(self.root)
            raise Fault(f"the image {self.stage.name} holds what only building needs: {what}")
        for keyword in ("ENTRYPOINT", *(["HEALTHCHECK"] if self.stage.last("HEALTHCHECK") else [])):
            self.program(command_of(self.stage, keyword)[0])

    def program(self, name):
        for folder in ("/usr/local/bin", "/usr/bin", "/bin"):
            path = self.root / folder.lstrip("/") / name
            if path.is_file() and os.access(str(path), os.X_OK):
                return f"{folder}/{name}"
        raise Fault(f"the image {self.stage.name} starts {name}, and holds no such program")

    def add_base(self):
        """What the base image would bring, as far as our programs may use it."""
        folder = self.root / "lib/x86_64-linux-gnu"
        folder.mkdir(parents=True, exist_ok=True)
        (self.root / "lib64").mkdir(exist_ok=True)
        for name in BASE_LIBRARIES:
            shutil.copy2(str(of_this_machine(name)), str(folder / name))
        shutil.copy2(str(folder / BASE_LIBRARIES[0]), str(self.root / "lib64" / BASE_LIBRARIES[0]))
        for empty in ("proc", "dev", "sys", "tmp", "etc"):
            (self.root / empty).mkdir(exist_ok=True)
        (self.root / "tmp").chmod(0o1777)

    def stand_for(self, workspace):
        """Programs look for libtorch where they were built. In Docker that is /moco; here it was `workspace`."""
        link = self.root / str(workspace).lstrip("/")
        if not link.exists() and not link.is_symlink() and str(workspace) != "/moco":
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to("/moco")

    def command(self, words, user=None):
        # A mount namespace of its own: what is mounted goes with the process. Without being root, a user namespace too.
        namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
        script = 'for f in proc dev sys; do mount --rbind "/$f" "$0/$f" || exit 125; done; exec chroot "$@"'
        change = [f"--userspec={user}"] if user and os.geteuid() == 0 else []
        return [*namespace, "sh", "-c", script, str(self.root), *change, str(self.root), *words]

    def start(self, words, user=None, **variables):
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", **self.variables, **variables}
        # `chroot` and `mount` must be found before the root changes, the program after it: both lie on this PATH.
        return subprocess.Popen(self.command(words, user), env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, universal_newlines=True)

    def says(self, words, status=0, user=None, **variables):
        process = self.start(words, user, **variables)
        text = process.communicate()[0]
        if process.returncode != status:
            ended = f"`{' '.join(words)}` ended with status {process.returncode} and not {status}"
            raise Fault(f"in the image {self.stage.name}, {ended}:\n{text}")
        return text

    def check_libraries(self):
        """The loader, in the image, finds every library of every program and library that was copied."""
        count = 0
        for path in self.own:
            with open(str(path), "rb") as file:
                if file.read(4) != b"\x7fELF":
                    continue
            count += 1
            text = self.says(["/lib64/ld-linux-x86-64.so.2", "--list", "/" + path.relative_to(self.root).as_posix()])
            missing = re.findall(r"(\S+) => not found", text)
            if missing:
                raise Fault(f"in the image {self.stage.name}, {path.name} does not find {', '.join(missing)}")
        print(f"image {self.stage.name}: the loader finds every library of {count} programs and libraries", flush=True)


def of_this_machine(library):
    for folder in ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib"):
        path = Path(folder) / library
        if path.exists():
            return path.resolve()
    raise Fault(f"this machine has no {library}")


def runpath(program):
    """The workspace whose libtorch a program was linked to, or None."""
    text = subprocess.run(["readelf", "-d", str(program)], stdout=subprocess.PIPE, check=True).stdout.decode()
    found = re.search(r"(?:RUNPATH|RPATH).*\[(.*?)/\.native/libtorch/lib", text)
    return Path(found.group(1)) if found else None


# The smallest run that is one: the demo's recipe with a narrow network, for one epoch.
RECIPE, SMALL = "tests/demo/cells.toml", ["epochs=1", "encoder.backbone.width=4"]


def check_train(image):
    """A minute's encoder from a few pictures, as an ONNX model: its path."""
    work = image.root / "runs"
    shutil.copytree(str(ROOT / "tests/data/cells/train"), str(work / "images"))
    shutil.copy2(str(ROOT / RECIPE), str(work / "recipe.toml"))
    print(image.says(["moco-train", "recipe", "v2"]).splitlines()[0])
    settings = ["--threads", "1", *(word for setting in SMALL for word in ("--set", setting))]
    image.says(["moco-train", "pretrain", "--config", "/runs/recipe.toml", "--data", "/runs/images", "--out", "/runs/run", *settings])
    print(image.says(["moco-export", "onnx", "/runs/run/encoder.safetensors", "-o", "/runs/model.onnx"]).strip(), flush=True)
    return work / "model.onnx"


def check_serve(image, model):
    user = image.stage.last("USER")
    if user is None or not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", user[1]):
        raise Fault("the image serve does not name a user by a number other than 0")
    user = user[1]
    owner = (image.root / "data").stat().st_uid
    if os.geteuid() == 0 and str(owner) != user.split(":")[0]:
        raise Fault(f"/data belongs to {owner}, and the server runs as {user}")
    (image.root / "model").mkdir()
    shutil.copy2(str(model), str(image.root / "model/model.onnx"))
    entry, health = command_of(image.stage, "ENTRYPOINT"), command_of(image.stage, "HEALTHCHECK")
    image.says([*entry, "--help"], user=user)
    # The port of the image may be taken on this machine; all else is as the image says.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"0.0.0.0:{free.getsockname()[1]}"
    said = image.says(health, status=1, user=user, MOCO_LISTEN=listen)
    print(f"image serve: before it runs, `{' '.join(health)}` says: {said.strip()}")
    server = image.start(entry, user, MOCO_LISTEN=listen)
    try:
        healthy = False
        for _ in range(120):
            if server.poll() is not None:
                raise Fault(f"the server ended with status {server.returncode}:\n{server.communicate()[0]}")
            check = image.start(health, user, MOCO_LISTEN=listen)
            check.communicate()
            healthy = check.returncode == 0
            if healthy:
                break
            time.sleep(0.5)
        if not healthy:
            raise Fault(f"`{' '.join(health)}` did not succeed within a minute")
    finally:
        if server.poll() is None:
            # `unshare` and `sh` became the server by exec: the process that was started is the server.
            server.send_signal(signal.SIGTERM)
        text = server.communicate()[0]
    if server.returncode not in (0, 143):
        raise Fault(f"after SIGTERM the server ended with status {server.returncode}:\n{text}")
    print(f"image serve: healthy as user {user}; ends with {server.returncode} after SIGTERM", flush=True)


def main(arguments):
    parser = argparse.ArgumentParser(description="Replays the Dockerfile without Docker.")
    parser.add_argument("--native", type=Path, help="finished native libraries, a .native folder")
    parser.add_argument("--programs", type=Path, help="finished programs, a target/release folder")
    parser.add_argument("--keep", action="store_true", help="leave the folders for a look")
    options = parser.parse_args(arguments)
    stages = parse((ROOT / "Dockerfile").read_text())
    with contextlib.ExitStack() as stack:
        folder = tempfile.mkdtemp(prefix="moco-docker-")
        if options.keep:
            print(f"folders: {folder}")
        else:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        replay = Replay(Path(folder), options.native, options.programs)
        for stage in stages:
            print(f"stage {stage.name}, from {stage.base}", flush=True)
            replay.stage(stage)
        images = {stage.name: Image(stage, replay) for stage in stages if stage.last("ENTRYPOINT")}
        if set(images) != {"serve", "train"}:
            raise Fault(f"the images are {', '.join(sorted(images))}, and not serve and train")
        workspace = runpath(images["train"].root / "usr/local/bin/moco-train")
        for image in images.values():
            image.check_files()
            image.add_base()
        images["train"].stand_for(workspace)
        for image in images.values():
            image.check_libraries()
        check_serve(images["serve"], check_train(images["train"]))
        for note in sorted(set(replay.notes)):
            print(f"not checked: {note}")
        print("docker-check: passed")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Fault as fault:
        sys.exit(f"docker-check: {fault}")
    except KeyboardInterrupt:
        sys.exit(130)
