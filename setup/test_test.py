"""The runner of the tests: what it takes for passed, failed, skipped, and hung."""

import contextlib
import io
import os
import sys
import unittest
from unittest import mock

import test as runner


def ran(code, name="a::b c"):
    """A test that is this Python program."""
    return runner.Test(name, [sys.executable, "-c", code], None, dict(os.environ)).run()


class Runner(unittest.TestCase):
    def tally(self, *tests):
        tally, said = runner.Tally(), io.StringIO()
        with contextlib.redirect_stdout(said):
            for test in tests:
                tally.add(test)
            tally.report()
        return tally, said.getvalue()

    def test_the_status_decides(self):
        self.assertTrue(ran("pass").passed)
        self.assertFalse(ran("raise SystemExit(1)").passed)

    def test_a_crash_is_a_failure_with_its_signal(self):
        crashed = ran("import os; print('before', flush=True); os.abort()")
        self.assertFalse(crashed.passed)
        self.assertIn("before", crashed.output)
        self.assertIn("ended by signal 6", crashed.output)

    def test_a_test_that_hangs_is_ended_with_what_it_started(self):
        with mock.patch.object(runner, "PATIENCE_S", 0.5):
            hung = ran("import subprocess; print('started', flush=True); subprocess.call(['sleep', '1000'])")
        self.assertFalse(hung.passed)
        self.assertIn("ended after 0.5 s", hung.output)

    def test_a_line_that_begins_with_skipped_is_read_after_libtests_own_words_too(self):
        for line in ("skipped: no shared data", "test photos ... skipped: no shared data"):
            self.assertEqual(ran(f"print({line!r}); print('ok')").skipped, ["no shared data"])
        self.assertEqual(ran("print('two files skipped: fine')").skipped, [])
        # A test that fails has not been skipped.
        self.assertEqual(ran("print('skipped: why'); raise SystemExit(1)").skipped, [])

    def test_the_report_names_what_failed_what_was_skipped_and_what_was_slow(self):
        tests = [ran("pass", f"quick {index}") for index in range(9)]
        for index, test in enumerate(tests):
            test.seconds = index
        tests += [ran("raise SystemExit('the reason')", "broken"), ran("print('skipped: no shared data')", "poor")]
        tests[-1].seconds = 0.1
        tests[-2].seconds = 100
        tally, said = self.tally(*tests)
        self.assertEqual((tally.passed, len(tally.failed), len(tally.skipped)), (9, 1, 1))
        self.assertIn("FAILED broken\n    the reason", said)
        slowest = said.split("ten slowest tests:\n")[1].splitlines()[:10]
        self.assertEqual([slowest[0].split()[2], slowest[1].split()[2:]], ["broken", ["quick", "8"]])
        self.assertNotIn("quick 0", "\n".join(slowest))
        self.assertIn("skipped:\n  poor: no shared data\n", said)
        self.assertTrue(said.endswith("failed:\n  broken\n9 passed, 1 failed, 1 skipped\n"))


if __name__ == "__main__":
    unittest.main()
