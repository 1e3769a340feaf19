"""What the tests of the examples share: programs that are started, watched and ended; locks that are held by somebody
else. Nothing here depends on how long anything takes; waiting for what ought to happen ends after DEADLINE seconds."""
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

DEADLINE = 120
PROGRAM = os.path.abspath(sys.argv[1])


class Program:
    """One process of the example. What it says on stderr is kept."""

    def __init__(self, *arguments, **settings):
        self.errors = tempfile.TemporaryFile("w+")
        words = [PROGRAM, *(str(argument) for argument in arguments)]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.errors,
                                        text=True, **settings)

    def line(self):
        return self.process.stdout.readline().strip()

    def signal(self, number):
        """Sends it; one that the program handles not before it does."""
        limit = time.monotonic() + DEADLINE
        while number != signal.SIGKILL and not self.handles(number):
            assert time.monotonic() < limit, f"never: signal {number} is handled"
            time.sleep(0.005)
        self.process.send_signal(number)

    def handles(self, number):
        with open(f"/proc/{self.process.pid}/status") as status:
            caught = next(line.split()[1] for line in status if line.startswith("SigCgt:"))
        return int(caught, 16) >> (number - 1) & 1

    def end(self):
        """Waits for it. Its exit status, and all that it has written since: (status, output, errors)."""
        output, _ = self.process.communicate(timeout=DEADLINE)
        self.errors.seek(0)
        return self.process.returncode, output, self.errors.read()

    def clean_up(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


class Case(unittest.TestCase):
    """Each test has a folder of its own, and leaves no process behind."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="aflock-examples.")
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def start(self, *arguments, **settings):
        program = Program(*arguments, **settings)
        self.addCleanup(program.clean_up)
        return program

    def run_it(self, *arguments, **settings):
        return self.start(*arguments, **settings).end()

    def until(self, condition, what):
        limit = time.monotonic() + DEADLINE
        while not condition():
            if time.monotonic() > limit:
                self.fail(f"never: {what}")
            time.sleep(0.005)

    def assert_ends_well(self, program, number=None):
        if number is not None:
            program.signal(number)
        status, _, errors = program.end()
        self.assertEqual((status, errors), (0, ""))

    def assert_refuses(self, wanted, text, *arguments):
        """It ends with this status, and says `text`."""
        status, _, errors = self.run_it(*arguments)
        self.assertEqual(status, wanted, errors)
        self.assertIn(text, errors)

    def assert_command_line(self, bad):
        status, output, errors = self.run_it("--help")
        self.assertEqual((status, errors), (0, ""))
        self.assertTrue(output.startswith("usage: "))
        for words in bad:
            self.assert_refuses(2, "usage: ", *words)

    def assert_free(self, path):
        with held(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            pass


@contextlib.contextmanager
def held(path, how=fcntl.LOCK_EX):
    """Somebody else has the lock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


def read(path):
    with open(path, newline="") as file:
        return file.read()


def write(path, text):
    with open(path, "w", newline="") as file:
        file.write(text)


def main():
    # SIGTERM to this process, too, cleans up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    unittest.main(failfast=True, argv=[sys.argv[0], "--verbose", *sys.argv[2:]])
