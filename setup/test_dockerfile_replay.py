"""The replay on small Dockerfiles, and the quick part of it on ours. All of it is `make docker-check`."""

import contextlib
import io
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import dockerfile_replay as replay

BASE = "FROM rust:9.9-bookworm AS build\nWORKDIR /app\n"


class Small(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root, self.out = Path(folder.name) / "tree", Path(folder.name) / "out"
        self.out.mkdir()
        for name, text in {"Cargo.toml": 'rust-version = "9.9"\n', ".dockerignore": "target\n**/__pycache__\n", "src/deep/a.rs": "a",
                           "src/b.rs": "b", "target/big": "", "src/__pycache__/x.pyc": ""}.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)
        patch = mock.patch.object(replay, "ROOT", self.root)
        patch.start()
        self.addCleanup(patch.stop)

    def replay(self, text):
        run = replay.Replay(self.out)
        with contextlib.redirect_stdout(io.StringIO()):
            for stage in replay.parse(text):
                run.stage(stage)
        return run

    def files(self, stage):
        return sorted(path.relative_to(self.out / stage).as_posix() for path in (self.out / stage).rglob("*") if path.is_file())

    def fault(self, text):
        with self.assertRaises(replay.Fault) as raised:
            self.replay(text)
        return str(raised.exception)

    def test_the_context_is_the_tree_without_what_is_ignored(self):
        self.assertEqual(replay.context(self.root), [".dockerignore", "Cargo.toml", "src/b.rs", "src/deep/a.rs"])

    def test_copies_land_where_docker_puts_them(self):
        self.replay(BASE + "COPY src/b.rs ./\nCOPY src ./sources\nCOPY Cargo.toml src/b.rs /two/\nCOPY Cargo.toml /renamed.toml\n"
                    "FROM debian:bookworm-slim AS last\nCOPY --from=build /app/sources /all\nCOPY --from=build /two/b.rs /renamed.toml /usr/\n")
        self.assertEqual(self.files("build"), ["app/b.rs", "app/sources/b.rs", "app/sources/deep/a.rs", "renamed.toml", "two/Cargo.toml", "two/b.rs"])
        self.assertEqual(self.files("last"), ["all/b.rs", "all/deep/a.rs", "usr/b.rs", "usr/renamed.toml"])

    def test_a_stage_on_a_stage_starts_with_its_files_and_its_folder(self):
        self.replay(BASE + "COPY src/b.rs ./\nFROM build AS more\nRUN rm b.rs && install -d /data made\n")
        self.assertEqual((self.files("build"), self.files("more")), (["app/b.rs"], []))
        self.assertTrue((self.out / "more/app/made").is_dir() and (self.out / "more/data").is_dir())

    def test_what_is_not_there_is_named_with_its_line(self):
        for text, sentence in [
            ("COPY src/c.rs ./\n", "line 3: the context has no src/c.rs"),
            ("COPY target ./\n", "line 3: the context has no target"),
            ("COPY --from=built /x /y\n", "line 3: COPY --from=built: no stage before this one has that name"),
            ("FROM debian:bookworm-slim AS last\nCOPY --from=build /app/x /y\n", "line 4: the stage build has no /app/x"),
            ("FROM debian:bookworm-slim AS last\nRUN make x\n", "line 4: neither the base image nor an installed package brings `make, python3`"),
            ("RUN rm absent\n", "line 3: `rm absent` ended with status 1"),
            ("RUN rm ${ABSENT}\n", "line 3: nothing sets ABSENT"),
            ("RUN apt-get update && apt-get install -y gpp\n", "line 3: the package gpp is not known here"),
            ("SHELL x\n", "line 3: SHELL is not known here"),
            ("FROM alpine:3 AS last\n", "line 3: the image alpine:3 is not known here"),
        ]:
            with self.subTest(text):
                self.out = Path(tempfile.mkdtemp(dir=str(self.root.parent)))
                self.assertEqual(self.fault(BASE + text), sentence)
        self.assertIn("the root Cargo.toml asks for Rust 9.9", self.fault("FROM rust:9.8-bookworm AS old\n"))

    def test_an_image_with_a_compiler_or_without_its_program_is_refused(self):
        end = 'ENTRYPOINT ["moco"]\n'
        for copies, sentence in [
            ("COPY src/b.rs /usr/local/bin/moco\nCOPY src/b.rs /usr/bin/gcc\n", "the image last holds what only building needs: gcc"),
            ("COPY src/b.rs /usr/local/bin/moco\nCOPY src /src\n", "the image last holds what only building needs: src/b.rs"),
            ("COPY Cargo.toml /usr/local/bin/maco\n", "the image last starts moco, and holds no such program"),
        ]:
            text = "FROM debian:bookworm-slim AS last\n" + copies + end
            self.out = Path(tempfile.mkdtemp(dir=str(self.root.parent)))
            run = self.replay(text)
            with self.assertRaises(replay.Fault) as raised, contextlib.redirect_stdout(io.StringIO()):
                replay.Image(replay.parse(text)[0], run).check_files()
            self.assertEqual(str(raised.exception), sentence)

    def test_an_entrypoint_behind_a_shell_is_refused(self):
        stage = replay.parse("FROM debian:x AS last\nENTRYPOINT moco-serve\n")[0]
        with self.assertRaisesRegex(replay.Fault, "a shell would stand between it and its signals"):
            replay.command_of(stage, "ENTRYPOINT")

    def test_long_lines_and_comments_are_read(self):
        stage = replay.parse("# a comment\nFROM debian:x AS last\n\nRUN rm a \\\n  # between\n  && rm b\nENV A=1 B=2\n")[0]
        self.assertEqual([(line, keyword, rest.split()) for line, keyword, rest in stage.steps],
                         [(4, "RUN", ["rm", "a", "&&", "rm", "b"]), (7, "ENV", ["A=1", "B=2"])])


class Ours(unittest.TestCase):
    def test_the_context_holds_sources_only(self):
        files = replay.context(replay.ROOT)
        self.assertIn("serve/Cargo.toml", files)
        self.assertEqual([file for file in files if file.startswith((".git/", ".native", "target/", "runs/")) or file.endswith(".pyc")], [])

    def test_every_copy_from_the_context_has_its_source(self):
        stages = replay.parse((replay.ROOT / "Dockerfile").read_text())
        self.assertEqual([stage.name for stage in stages if stage.last("ENTRYPOINT")], ["serve", "train"])
        run = replay.Replay(Path("unused"))
        for stage in stages:
            for _, keyword, rest in stage.steps:
                if keyword == "COPY" and not rest.startswith("--from"):
                    for source in rest.split()[:-1]:
                        self.assertTrue(run.from_context(source))

    def test_the_health_check_is_the_program_itself(self):
        serve = next(stage for stage in replay.parse((replay.ROOT / "Dockerfile").read_text()) if stage.name == "serve")
        self.assertEqual(replay.command_of(serve, "HEALTHCHECK")[0], replay.command_of(serve, "ENTRYPOINT")[0])


if __name__ == "__main__":
    unittest.main()
