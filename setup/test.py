#!/usr/bin/env python3
"""Runs every test of the workspace and says how it went: what failed, what was skipped, what was slow, and the total.

    python3 setup/test.py [WORD ...]      all, or the tests whose name (package, binary, test) holds one of the words

Formatting, clippy and the build come first. Then each test runs in a process of its own, a few at once, from the
folder and with the variables that `cargo test` gives it (Cargo is asked: this file is its "runner", and notes what
would have been run). So a crash takes one test with it, each has its time, and what a passing test printed is read:
a line `skipped: why` means that it could not do its work here. Documentation's examples, and the Python tests of
`setup/`, run at the end. Nothing beside Rust and Python is needed.
"""

import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
AT_ONCE = max(2, (os.cpu_count() or 2) // 2)
# Longer than any test should take on a busy machine; one that hangs fails by name.
PATIENCE_S = 900
SKIPPED = re.compile(r"^(?:test .* \.\.\. )?skipped: (.+)$", re.MULTILINE)
# Benchmarks are not tests.
KINDS = ["--lib", "--bins", "--tests", "--examples"]
NOTES = "MOCO_TEST_NOTES"


class Test:
    def __init__(self, name, command, folder, variables):
        self.name, self.command, self.folder, self.variables = name, command, folder, variables
        self.passed, self.skipped, self.seconds, self.output = False, [], 0.0, ""

    def run(self):
        start = time.monotonic()
        # A session of its own: what a test started and left behind ends with it.
        process = subprocess.Popen(self.command, cwd=self.folder, env=self.variables, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            output, _ = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            output += f"\nended after {PATIENCE_S} s\n".encode()
        self.seconds = time.monotonic() - start
        self.output = output.decode(errors="replace")
        self.passed = process.returncode == 0
        if process.returncode < 0:
            self.output += f"\nended by signal {-process.returncode}\n"
        if self.passed:
            self.skipped = SKIPPED.findall(self.output)
        return self


class Tally:
    """What is known at the end."""

    def __init__(self):
        self.passed, self.failed, self.skipped, self.slow = 0, [], [], []

    def add(self, test):
        self.slow.append((test.seconds, test.name))
        if not test.passed:
            self.failed.append(test)
            print(f"FAILED {test.name}\n{indented(test.output)}", flush=True)
        elif test.skipped:
            self.skipped += [(test.name, why) for why in test.skipped[:1]]
        else:
            self.passed += 1

    def report(self):
        print("\nten slowest tests:")
        for seconds, name in sorted(self.slow, reverse=True)[:10]:
            print(f"{seconds:8.1f} s  {name}")
        if self.skipped:
            print("skipped:")
            for name, why in self.skipped:
                print(f"  {name}: {why}")
        if self.failed:
            print("failed:")
            for test in self.failed:
                print(f"  {test.name}")
        print(f"{self.passed} passed, {len(self.failed)} failed, {len(self.skipped)} skipped", flush=True)


def indented(text):
    return "".join(f"    {line}\n" for line in text.strip().splitlines()[-120:])


def step(what, command):
    """One command that must succeed before tests make sense."""
    print(f"== {what}: {' '.join(command)}", flush=True)
    start = time.monotonic()
    status = subprocess.call(command, cwd=ROOT)
    if status:
        print(f"{what} failed", flush=True)
        sys.exit(1)
    print(f"   {time.monotonic() - start:.0f} s", flush=True)


def binaries(notes):
    """What `cargo test` would start, asked of Cargo itself: [{binary, folder, variables}]."""
    host = next(line.split()[1] for line in output_of(["rustc", "-vV"]).splitlines() if line.startswith("host:"))
    runner = f'target.{host}.runner=["{sys.executable}", "{Path(__file__).resolve()}", "--note"]'
    notes.write_text("")
    command = ["cargo", "test", "--workspace", *KINDS, "--quiet", "--config", runner]
    subprocess.run(command, cwd=ROOT, env={**os.environ, NOTES: str(notes)}, check=True)
    return [json.loads(line) for line in notes.read_text().splitlines()]


def note(arguments):
    """Called by Cargo in place of a test binary."""
    with open(os.environ[NOTES], "a") as file:
        variables = {name: value for name, value in os.environ.items() if name != NOTES}
        file.write(json.dumps({"binary": arguments[0], "folder": os.getcwd(), "variables": variables}) + "\n")


def tests_of(binary):
    """(tests to run, names of the tests marked `#[ignore]`)"""
    path, folder, variables = binary["binary"], binary["folder"], binary["variables"]
    group = f"{variables.get('CARGO_PKG_NAME', '?')}::{Path(path).name.rsplit('-', 1)[0]}"

    def listed(*more):
        text = output_of([path, "--list", "--format", "terse", *more], cwd=folder, env=variables)
        return [line[: -len(": test")] for line in text.splitlines() if line.endswith(": test")]

    ignored = set(listed("--ignored"))
    wanted = [name for name in listed() if name not in ignored]
    tests = [Test(f"{group} {name}", [path, "--exact", name, "--nocapture"], folder, variables) for name in wanted]
    return tests, [f"{group} {name}" for name in sorted(ignored)]


def output_of(command, **more):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, **more).stdout.decode()


def examples(tally):
    """The examples in the documentation, counted from what libtest prints."""
    print("== documentation's examples", flush=True)
    result = subprocess.run(["cargo", "test", "--workspace", "--doc", "--no-fail-fast"], cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = result.stdout.decode(errors="replace")
    named = re.findall(r"^test (.+) \.\.\. (ok|FAILED|ignored)", text, re.MULTILINE)
    for name, verdict in named:
        test = Test(f"example {name}", [], ROOT, {})
        test.passed = verdict != "FAILED"
        test.skipped = ["ignored"] if verdict == "ignored" else []
        test.output = text
        tally.add(test)
    if result.returncode and not any(verdict == "FAILED" for _, verdict in named):
        test = Test("documentation's examples", [], ROOT, {})
        test.output = text
        tally.add(test)


def python_tests():
    """Tests of the scripts in `setup/`, one process for each file's class."""
    for path in sorted(HERE.glob("test_*.py")):
        yield Test(f"setup {path.name}", [sys.executable, "-m", "unittest", path.stem], str(HERE), dict(os.environ))


def main(words):
    start = time.monotonic()
    if not words:
        step("formatting", ["cargo", "fmt", "--all", "--check"])
        clippy = ["cargo", "clippy", "--locked", "--quiet"]
        step("clippy", [*clippy, "--workspace", "--all-targets", "--", "-D", "warnings"])
        # What is compiled for one benchmark only.
        step("clippy of `measure`", [*clippy, "-p", "moco-index", "--features", "measure", "--lib", "--bench", "graph", "--", "-D", "warnings"])
    # Tests start programs of packages that have no test of their own: those must be there, and new. In one command, so
    # that Cargo chooses the features of every dependency once; what it builds here, `cargo test` finds finished.
    step("build", ["cargo", "build", "--locked", "--workspace", *KINDS, "--quiet"])

    target = json.loads(output_of(["cargo", "metadata", "--no-deps", "--format-version", "1"], cwd=ROOT))["target_directory"]
    tests, tally = [], Tally()
    for binary in binaries(Path(target) / "test-binaries.json"):
        found, ignored = tests_of(binary)
        tests += found
        tally.skipped += [(name, "ignored") for name in ignored if not words or any(word in name for word in words)]
    tests += python_tests()
    if words:
        tests = [test for test in tests if any(word in test.name for word in words)]
    print(f"== {len(tests)} tests, {AT_ONCE} at once", flush=True)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for done in concurrent.futures.as_completed([pool.submit(test.run) for test in tests]):
            tally.add(done.result())
    if not words:
        examples(tally)
    tally.report()
    if not tally.passed:
        print("no test ran: nothing was shown", file=sys.stderr)
    print(f"({(time.monotonic() - start) / 60:.1f} minutes)", file=sys.stderr)
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--note"]:
        note(sys.argv[2:])
    else:
        try:
            sys.exit(main(sys.argv[1:]))
        except subprocess.CalledProcessError as error:
            print(f"{' '.join(map(str, error.cmd))} ended with status {error.returncode}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(130)
