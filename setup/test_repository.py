"""What the repository promises of itself: no large file, links that lead somewhere, a help that tells the truth."""

import re
import subprocess
import unittest
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10 and older
    tomllib = None

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 3_000_000


def files():
    """What is committed or about to be; without git, nothing is known."""
    result = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=str(ROOT),
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if result.returncode:
        raise unittest.SkipTest("not a clone")
    return [path for path in (ROOT / name for name in result.stdout.decode().split("\0") if name) if path.is_file()]


class Repository(unittest.TestCase):
    def test_no_file_is_over_three_megabytes(self):
        self.assertEqual([(str(path), path.stat().st_size) for path in files() if path.stat().st_size > LARGEST], [])

    def test_every_relative_link_of_every_page_leads_to_a_file(self):
        broken = []
        for page in (path for path in files() if path.suffix == ".md"):
            # Code is no link.
            text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
            for target in re.findall(r"\]\(([^)\s]+)\)", text):
                if not re.match(r"[a-z]+:|#", target) and not (page.parent / target.split("#")[0]).exists():
                    broken.append(f"{page.relative_to(ROOT)}: {target}")
        self.assertEqual(broken, [])

    @unittest.skipUnless(tomllib, "this Python reads no TOML")
    def test_every_package_has_a_readme_and_a_licence(self):
        workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]
        self.assertEqual(workspace["package"]["license"], "MIT OR Apache-2.0")
        for member in workspace["members"]:
            package = tomllib.loads((ROOT / member / "Cargo.toml").read_text())
            self.assertTrue((ROOT / member / "README.md").is_file(), f"{member} has no README.md")
            self.assertEqual(package["package"]["license"], {"workspace": True}, member)
            self.assertEqual(package["lints"], {"workspace": True}, member)

    @unittest.skipUnless(tomllib, "this Python reads no TOML")
    def test_versions_are_stated_in_the_root_alone(self):
        for member in tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]:
            manifest = tomllib.loads((ROOT / member / "Cargo.toml").read_text())
            for section in ("dependencies", "dev-dependencies", "build-dependencies"):
                for name, value in manifest.get(section, {}).items():
                    self.assertTrue(isinstance(value, dict) and value.get("workspace") is True, f"{member}: {name}")

    def test_make_alone_lists_every_target_and_every_script_is_there(self):
        text = (ROOT / "Makefile").read_text()
        targets = set(re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE).group(1).split()) - {"help"}
        listed = subprocess.run(["make", "--no-print-directory", "help"], cwd=str(ROOT), stdout=subprocess.PIPE, check=True).stdout.decode()
        self.assertEqual(set(re.findall(r"^make (\S+)", listed, re.MULTILINE)), targets)
        for script in re.findall(r"\$\(PYTHON\) (\S+\.py)", text):
            self.assertTrue((ROOT / script).is_file(), script)

    def test_the_demo_s_cells_are_as_many_of_each_class_and_split_by_source_picture(self):
        cells = ROOT / "tests/data/cells"
        pictures = {part: sorted((cells / part).glob("*/*.png")) for part in ("train", "held-out")}
        counts = {}
        for path in (path for paths in pictures.values() for path in paths):
            counts[path.parent.name] = counts.get(path.parent.name, 0) + 1
            # The header of a PNG: 48 x 48, 8 bits, grey.
            self.assertEqual(path.read_bytes()[12:26], b"IHDR" + bytes([0, 0, 0, 48, 0, 0, 0, 48, 8, 0]), str(path))
        self.assertEqual(counts, {"Platelets": 361, "RBC": 361, "WBC": 361})
        sources = {part: {path.stem.rsplit("-", 1)[0] for path in paths} for part, paths in pictures.items()}
        self.assertEqual(sources["train"] & sources["held-out"], set())
        self.assertLessEqual(sum(path.stat().st_size for path in cells.rglob("*") if path.is_file()), LARGEST)
        self.assertTrue((cells / "LICENSE").is_file())

    def test_ci_runs_make_test(self):
        script = ROOT / ".ci/run"
        self.assertTrue(script.stat().st_mode & 0o100)
        self.assertIn("exec make test\n", script.read_text())


if __name__ == "__main__":
    unittest.main()
