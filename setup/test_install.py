"""Set-up on tiny wheels that this file makes: nothing is fetched."""

import ast
import contextlib
import hashlib
import io
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unittest
import zipfile
from pathlib import Path
from unittest import mock

import install

HERE = Path(__file__).resolve().parent


def wheel(folder, name, files):
    """A wheel of `name` 1.0 in `folder`; its SHA-256."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    everything = {**files, f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
                  f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    everything[f"{about}/RECORD"] = "".join(f"{file},,\n" for file in [*everything, f"{about}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in everything.items():
            archive.writestr(file, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def place(name):
    """`tiny/engine/a.so` goes to `engine/a.so`."""
    return name[len("tiny/"):] if name.startswith("tiny/") and name.endswith(".so") else None


def finish(folder):
    install.require(folder, ["engine/a.so", "helper/b.so"])


TINY = install.Wheels("tiny", place, finish, ["engine", "helper"], 0)


class Setup(unittest.TestCase):
    """Every test has an empty `.native` and one wheel, which a copy stands for fetching: pip is slow to start. `with_pip`
    brings the real one, which knows this wheel alone."""

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.native, self.shop = self.folder / ".native", self.folder / "shop"
        self.shop.mkdir()
        self.hash = wheel(self.shop, "tiny", {"tiny/engine/a.so": "first", "tiny/helper/b.so": "second", "tiny/python.py": "third"})
        self.list = self.write_list(self.hash)
        self.pip = mock.patch.object(install, "pip", lambda words, _: shutil.copytree(self.shop, words[words.index("-d") + 1]))
        self.pip.start()
        self.addCleanup(mock.patch.stopall)

    def with_pip(self):
        self.pip.stop()
        only_this = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.shop), "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
        mock.patch.dict(os.environ, only_this).start()

    # Since Python 3.11 there is one of the same name.
    def enterContext(self, manager):
        value = manager.__enter__()
        self.addCleanup(manager.__exit__, None, None, None)
        return value

    def write_list(self, digest):
        path = self.folder / "tiny.txt"
        path.write_text(f"# a comment\ntiny==1.0 --hash=sha256:{digest}\n")
        return path

    def install(self):
        return install.install(TINY, self.list, self.native)

    def found(self):
        return sorted(str(path.relative_to(self.native)) for path in self.native.rglob("*")
                      if path.is_file() and path.name not in (".lock", ".stamp-tiny", ".stamp-clients-tiny"))

    def test_what_is_wanted_of_a_wheel_is_kept_and_a_second_run_does_nothing(self):
        self.with_pip()
        self.assertTrue(self.install())
        self.assertEqual(self.found(), ["engine/a.so", "helper/b.so"])
        self.assertEqual((self.native / "engine/a.so").read_text(), "first")
        # No pip, no wheel: nothing is asked for.
        (self.shop / "tiny-1.0-py3-none-any.whl").unlink()
        with mock.patch.object(install, "pip", side_effect=AssertionError("pip was started")):
            self.assertFalse(self.install())

    def test_a_wheel_with_another_hash_is_refused_and_what_stood_there_stays(self):
        self.with_pip()
        self.write_list("0" * 64)
        with self.assertRaisesRegex(install.Refusal, "does not have the hash that tiny.txt states, so nothing was installed"):
            self.install()
        self.assertEqual(self.found(), [])
        self.write_list(self.hash)
        self.assertTrue(self.install())
        self.write_list("1" * 64)
        with self.assertRaises(install.Refusal):
            self.install()
        self.assertEqual(self.found(), ["engine/a.so", "helper/b.so"])

    def test_a_package_without_a_hash_is_refused(self):
        self.with_pip()
        self.list.write_text("tiny==1.0\n")
        with self.assertRaisesRegex(install.Refusal, "pip could not get the packages of tiny.txt"):
            self.install()
        self.assertEqual(self.found(), [])

    def test_a_package_that_cannot_be_had_says_what_pip_said(self):
        self.with_pip()
        (self.shop / "tiny-1.0-py3-none-any.whl").unlink()
        with self.assertRaisesRegex(install.Refusal, r"(?s)is the network up\?.*tiny"):
            self.install()

    def killed_at(self, moment):
        """Installs in a process that is killed at its `moment`th rename, or, at 0, while wheels are being unpacked."""
        child = os.fork()
        if child == 0:
            count = [0]
            rename = Path.rename

            def counted(path, target):
                count[0] += 1
                if count[0] == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                return rename(path, target)

            if moment == 0:
                install.unpack = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            Path.rename = counted
            try:
                self.install()
            finally:
                os._exit(0)
        return os.waitpid(child, 0)[1] == signal.SIGKILL

    def test_a_set_up_killed_at_any_moment_is_mended_by_the_next(self):
        # Two folders and the stamp: three renames. First into nothing, then over an older set-up.
        for older in (False, True):
            for moment in range(4):
                with self.subTest(older=older, moment=moment):
                    if older:
                        self.list.write_text(self.list.read_text() + "# another list\n")
                    else:
                        shutil.rmtree(self.native, ignore_errors=True)
                    self.assertTrue(self.killed_at(moment))
                    self.assertTrue(self.install(), "the next set-up took an unfinished one for a finished one")
                    self.assertEqual(self.found(), ["engine/a.so", "helper/b.so"])
                    self.assertFalse((self.native / ".unfinished-tiny").exists())
                    self.assertFalse(self.install())
        # What is counted above are all moments there are.
        self.list.write_text(self.list.read_text() + "# and another\n")
        self.assertFalse(self.killed_at(4))
        self.assertFalse(self.install())

    def test_a_file_that_was_lost_or_cut_is_brought_back(self):
        self.install()
        for damage in (lambda path: path.unlink(), lambda path: path.write_text("f")):
            damage(self.native / "engine/a.so")
            self.assertTrue(self.install())
            self.assertEqual((self.native / "engine/a.so").read_text(), "first")

    def test_a_changed_list_is_installed(self):
        self.install()
        digest = wheel(self.shop, "tiny", {"tiny/engine/a.so": "newer", "tiny/helper/b.so": "second"})
        self.write_list(digest)
        self.assertTrue(self.install())
        self.assertEqual((self.native / "engine/a.so").read_text(), "newer")

    def test_a_wheel_that_lacks_what_is_needed_is_refused(self):
        self.write_list(wheel(self.shop, "tiny", {"tiny/engine/a.so": "first"}))
        with self.assertRaisesRegex(install.Refusal, "the wheels do not hold helper/b.so"):
            self.install()
        self.assertEqual(self.found(), [])

    def test_a_wheel_that_points_outside_its_folder_is_refused(self):
        self.write_list(wheel(self.shop, "tiny", {"tiny/../../outside.so": "x", "tiny/engine/a.so": "", "tiny/helper/b.so": ""}))
        with self.assertRaisesRegex(install.Refusal, "names a file outside its own folder"):
            self.install()
        self.assertFalse(list(self.folder.rglob("outside.so")))

    def test_a_disk_without_room_is_said_before_anything_is_fetched(self):
        with mock.patch.object(install.shutil, "disk_usage", return_value=mock.Mock(free=1.5e9)):
            with self.assertRaisesRegex(install.Refusal, r"has 1\.5 GB of free space, and set-up needs 3 GB"):
                install.check_room(self.native, 3)

    def test_two_set_ups_at_once_do_the_work_once(self):
        self.with_pip()
        code = ("import sys, pathlib; sys.path.insert(0, sys.argv[1]); import test_install as t, install; "
                "print(install.install(t.TINY, *map(pathlib.Path, sys.argv[2:4])))")
        command = [sys.executable, "-c", code, str(HERE), str(self.list), str(self.native)]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, universal_newlines=True) for _ in range(2)]
        said = [process.communicate()[0].splitlines()[-1] for process in both]
        self.assertEqual(sorted(said), ["False", "True"])

    def test_client_packages_are_installed_whole(self):
        self.with_pip()
        clients = install.Clients("clients-tiny")
        clients.gigabytes = 0
        self.assertTrue(install.install(clients, self.list, self.native))
        self.assertIn("clients-tiny/tiny/python.py", self.found())
        self.assertFalse(install.install(clients, self.list, self.native))
        with mock.patch.object(platform, "python_version_tuple", return_value=("3", "99", "0")):
            self.assertFalse(install.is_done(self.native / ".stamp-clients-tiny", install.identity(clients, self.list), self.native))


class Machine(unittest.TestCase):
    def refused(self, call, *arguments):
        with self.assertRaises(install.Refusal) as raised:
            call(*arguments)
        return str(raised.exception)

    def test_a_platform_without_wheels_is_refused_by_name(self):
        install.check_platform("Linux", "x86_64", "glibc 2.28")
        install.check_platform("Linux", "x86_64", "glibc 2.41")
        for machine, words in [
            (("Darwin", "arm64", ""), "this is Darwin on arm64"),
            (("Windows", "AMD64", ""), "this is Windows on AMD64"),
            (("Linux", "aarch64", "glibc 2.36"), "this is Linux on aarch64"),
            (("Linux", "x86_64", ""), "C library `unknown`"),
            (("Linux", "x86_64", "glibc 2.17"), "this Linux has glibc 2.17; the pinned libraries need 2.28"),
        ]:
            self.assertIn(words, self.refused(install.check_platform, *machine))

    def test_the_program_says_so_in_one_sentence_and_writes_nothing(self):
        said = io.StringIO()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(said), mock.patch.object(install, "ROOT", Path(folder)), \
                mock.patch.object(platform, "system", return_value="Darwin"), mock.patch.object(platform, "machine", return_value="arm64"):
            self.assertEqual(install.main(["cpu"]), 1)
            self.assertEqual(os.listdir(folder), [])
        self.assertEqual(said.getvalue(), "set-up: this is Darwin on arm64; the pinned libraries exist for Linux on x86_64 only\n")

    def test_wrong_usage_ends_with_2(self):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            self.assertEqual(install.main(["gpu"]), 2)
        self.assertIn("usage: install.py cpu|cuda|clients-test", said.getvalue())

    def with_python(self, script):
        """`check_tools` under a Python whose `-m pip --version` is `script`."""
        with tempfile.TemporaryDirectory() as folder:
            python = Path(folder) / "python3"
            python.write_text(f"#!/bin/sh\n{script}\n")
            python.chmod(python.stat().st_mode | stat.S_IXUSR)
            with mock.patch.object(sys, "executable", str(python)):
                return self.refused(install.check_tools, "cpu")

    def test_a_python_without_pip_or_with_an_old_one_is_said(self):
        self.assertIn("has no pip: install it", self.with_python("exit 1"))
        self.assertIn("pip is 19.3.1; 20.3 or newer is needed", self.with_python("echo pip 19.3.1 from somewhere"))

    def test_a_missing_compiler_is_said(self):
        for tool in ("cargo", "g++"):
            which = lambda name: None if name == tool else f"/usr/bin/{name}"
            with mock.patch.object(install.shutil, "which", which):
                self.assertIn(f"`{tool}` is not on the PATH", self.refused(install.check_tools, "cpu"))

    def test_a_library_that_does_not_load_is_said(self):
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "libbroken.so"
            library.write_text("no library")
            self.assertIn("libbroken.so was unpacked but does not load on this machine", self.refused(install.loads, library))


class Lists(unittest.TestCase):
    def pins(self, name):
        lines = (HERE / name).read_text().replace("\\\n", "").splitlines()
        return [line.split() for line in lines if line and not line.startswith("#")]

    def test_every_package_has_one_version_and_a_hash(self):
        for name in ("cpu.txt", "cuda.txt", "clients-test.txt"):
            for package, *more in self.pins(name):
                self.assertRegex(package, r"^[A-Za-z0-9_.-]+==[0-9][^*<>=]*$")
                self.assertTrue(any(re.fullmatch("--hash=sha256:[0-9a-f]{64}", word) for word in more), f"{package} in {name}")

    def test_the_lists_and_the_build_script_mean_one_libtorch(self):
        cpu, cuda = ({package: more for package, *more in self.pins(name)} for name in ("cpu.txt", "cuda.txt"))
        torch = f"torch=={install.TORCH_VERSION}"
        self.assertEqual(cpu[torch], cuda[torch])
        self.assertIn(f'const VERSION: &str = "{install.TORCH_VERSION}";', (HERE / "libtorch.rs").read_text())
        onnxruntime = next(package for package in cpu if package.startswith("onnxruntime=="))
        self.assertIn(onnxruntime.replace("onnxruntime", "onnxruntime-gpu"), cuda)

    def test_the_cuda_folder_holds_what_the_cpu_folder_does_not(self):
        for name, cpu, cuda in [
            ("torch/lib/libtorch_cpu.so", "libtorch/lib/libtorch_cpu.so", None),
            ("torch/lib/libtorch_cuda.so", None, "lib/libtorch_cuda.so"),
            ("torch/lib/libtorch_python.so", None, None),
            ("torch/include/ATen/ATen.h", "libtorch/include/ATen/ATen.h", None),
            ("torch/nn/modules/conv.py", None, None),
            ("nvidia/cu13/lib/libcudart.so.13", "libtorch/lib/libcudart.so.13", "lib/libcudart.so.13"),
            ("nvidia/cudnn/lib/libcudnn.so.9", None, "lib/libcudnn.so.9"),
            ("onnxruntime/capi/libonnxruntime.so.1.31.1", "onnxruntime/lib/libonnxruntime.so.1", "lib/libonnxruntime.so.1"),
            ("onnxruntime/capi/libonnxruntime_providers_cuda.so", None, "lib/libonnxruntime_providers_cuda.so"),
            ("onnxruntime/capi/libonnxruntime_providers_tensorrt.so", None, None),
            ("onnxruntime/LICENSE", "onnxruntime/licences/onnxruntime-LICENSE", "./licences/onnxruntime-LICENSE"),
        ]:
            self.assertEqual((install.cpu_place(name), install.cuda_place(name)), (cpu, cuda), name)


class Scripts(unittest.TestCase):
    @unittest.skipUnless(hasattr(sys, "stdlib_module_names"), "this Python does not list its standard library")
    def test_what_a_newcomer_runs_imports_the_standard_library_only(self):
        ours = {path.stem for path in HERE.glob("*.py")}
        # lock.py is for whoever changes the list of clients; it uses what pip brings.
        for path in sorted(set(HERE.glob("*.py")) - {HERE / "lock.py"}):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) else []
                for name in names:
                    self.assertIn(name.split(".")[0], ours | sys.stdlib_module_names, path.name)

    def test_a_finished_set_up_is_recognised_in_less_than_a_second(self):
        # As many files as libtorch has. The stamp is what costs time, so it is timed apart from starting Python.
        with tempfile.TemporaryDirectory() as folder:
            native = Path(folder)
            (native / "engine").mkdir()
            for index in range(10_000):
                (native / "engine" / f"{index}.h").touch()
            packages = native / "list.txt"
            packages.write_text("")
            identity = install.identity(TINY, packages)
            (native / ".stamp-tiny").write_text("\n".join([identity, *install.sizes(native, [native / "engine"])]))
            start = time.process_time()
            self.assertTrue(install.is_done(native / ".stamp-tiny", identity, native))
            print(f"10,000 files in {time.process_time() - start:.3f} s of CPU time")


if __name__ == "__main__":
    unittest.main()
