"""What the tests of the agent for HAProxy share: folders, programs that are started and watched. Ports are never fixed:
the system chooses. Nothing depends on how long anything takes; waiting for what ought to happen ends after DEADLINE."""
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from spop import DEADLINE, Client

AGENT = os.path.abspath(sys.argv[1])
WORDS_OF_SANITIZERS = re.compile(r"Sanitizer|runtime error:")


def memory(kib):
    """So much, but for instrumented programs, which keep what is freed."""
    with open(AGENT, "rb") as file:
        return 1 << 30 if re.search(rb"__[at]san_init", file.read()) else kib


class Program:
    """A process; what it says goes to a file."""

    def __init__(self, words, log, **settings):
        self.path = log
        with open(log, "a") as out:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **settings)

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        with open(self.path, errors="replace") as file:
            return file.read()

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        return self.process.wait(DEADLINE)

    def is_running(self):
        return self.process.poll() is None

    def kill(self):
        if self.is_running():
            self.process.kill()
        self.process.wait()


class Agent(Program):
    def __init__(self, directory, log, *options, listen="127.0.0.1:0", before=(), **settings):
        super().__init__([*before, AGENT, "--listen", listen, "--directory", directory, *map(str, options)], log,
                         **settings)
        self.address = None

    def is_listening(self):
        found = re.findall(r"listening on (\S+)", self.log())
        if found and not self.address:
            host, _, port = found[-1].rpartition(":")
            self.address = (host, int(port)) if host else found[-1]
        return self.address is not None

    def count(self, text):
        return self.log().count(text)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self):
        """Resident, in KiB."""
        with open(f"/proc/{self.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def on_host(name):
    """What runs behind these words is on a host of this name: for locks that name their holders, another one."""
    root = () if os.geteuid() == 0 else ("--map-root-user",)
    return ("unshare", *root, "--uts", "sh", "-c", f'hostname {name} && exec "$@"', "sh")


class Case(unittest.TestCase):
    """Each test has a folder of its own, and leaves no process behind."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="aflock-haproxy.")
        self.addCleanup(shutil.rmtree, self.folder)
        self.locks = self.path("locks")
        os.mkdir(self.locks)
        self.programs = 0

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def new_log(self, kind):
        self.programs += 1
        return self.path(f"{kind}-{self.programs}.log")

    def until(self, condition, what):
        limit = time.monotonic() + DEADLINE
        while not condition():
            if time.monotonic() > limit:
                self.fail(f"never: {what}\n{self.all_logs()}")
            time.sleep(0.005)

    def all_logs(self):
        text = []
        for name in sorted(os.listdir(self.folder)):
            if name.endswith(".log"):
                with open(self.path(name), errors="replace") as file:
                    text.append(f"--- {name}\n{file.read()[-4000:]}")
        return "\n".join(text)

    def start_agent(self, *options, directory=None, **settings):
        agent = Agent(directory or self.locks, self.new_log("agent"), *options, **settings)
        self.addCleanup(self.end_agent, agent)
        self.until(lambda: agent.is_listening() or not agent.is_running(), "the agent listens")
        self.assertTrue(agent.is_running(), agent.log())
        return agent

    def end_agent(self, agent):
        """However it ended, no sanitizer has spoken; if it lives, it ends well."""
        if agent.is_running():
            agent.signal(signal.SIGTERM)
            time.sleep(0.05)
            if agent.is_running():
                agent.signal(signal.SIGTERM)  # now, whatever is held
            try:
                agent.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                agent.kill()
        self.assertNotRegex(agent.log(), WORDS_OF_SANITIZERS)
        self.assertIn(agent.process.returncode, (0, -signal.SIGKILL), agent.log())

    def connect(self, agent, **settings):
        client = Client(agent.address, **settings)
        self.addCleanup(client.close)
        return client

    def is_free(self, key):
        """Does nobody have the lock of the key? Asked by flock(2), without leaving a file."""
        try:
            fd = os.open(self.path("locks", key + ".lock"), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(fd)

    def until_free(self, key):
        """What is released is unlocked a moment later, on another thread."""
        self.until(lambda: self.is_free(key), "it is unlocked")


def main():
    # SIGTERM to this process, too, cleans up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    unittest.main(failfast=True, argv=[sys.argv[0], "--verbose", *sys.argv[2:]])
