"""What the tests with load share: an nginx of two workers before a backend that must never be asked twice at a time, wrk,
others who want the same lock, and a client that misbehaves.

    TEST [--seconds N] [--requests N] [--times N] [--no-lock] [NAME...]

The options make a test longer; what they mean is said by each. --no-lock leaves out the directive: then what asserts
exclusion must fail.
"""
import argparse
import asyncio
import contextlib
import fcntl
import glob
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "nginx"))

from journal import Journal
from server import DEADLINE, Nginx, end_with_parent, read, until

FLOCK = "/usr/bin/flock"
OPTIONS = argparse.Namespace()


def figure(text):
    """Shown in the summary of scripts/test."""
    print(f"figure: nginx: {text}", flush=True)


class Case(unittest.TestCase):
    """Each test has a folder, an nginx, and processes that end with it."""

    def run(self, result=None):
        self.result = result
        return super().run(result)

    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.clean_up)

    def clean_up(self):
        """If the test has failed, nginx tells what it said, and is not asked to quit well."""
        failed = None if self.result.wasSuccessful() else AssertionError("the test has failed")
        self.stack.__exit__(failed and type(failed), failed, None)

    def nginx(self, server="", workers=2, connections=4096, may_say=(), http="", main=""):
        """One that is started; `server` may name @FOLDER@. In html/done is the text "done". (What `return` answers it answers
        before anybody is asked for a lock.)"""
        nginx = self.stack.enter_context(Nginx(workers, connections, may_say))
        os.mkdir(nginx.path("locks"))
        os.mkdir(nginx.path("journal"))
        with open(nginx.path("html", "done"), "w") as file:
            file.write("done\n")
        self.configure(nginx, server, http, main)
        nginx.start()
        return nginx

    @staticmethod
    def configure(nginx, server, http="", main=""):
        if OPTIONS.no_lock:
            server = re.sub(r"file_lock[^;]*;", "", server)
        nginx.configure(server.replace("@FOLDER@", nginx.folder), http.replace("@FOLDER@", nginx.folder), main)



    def start(self, *arguments, **settings):
        process = subprocess.Popen([str(argument) for argument in arguments], stdin=subprocess.DEVNULL,
                                   preexec_fn=end_with_parent, start_new_session=True, text=True, **settings)
        self.stack.callback(end, process)
        return process

    def backend(self, *options):
        """(its port, its journal)."""
        folder = self.stack.enter_context(scratch())
        process = self.start(sys.executable, "-B", f"{HERE}/backend", folder, *options, stdout=subprocess.PIPE)
        return int(process.stdout.readline()), Journal(folder)

    def contenders(self, folder, lock):
        """Others who append to the same journal: python3-filelock, flock(1), the command aflock. The lines that each
        has appended, when it is told that it is enough."""
        programs = {"filelock": "filelock", "flock": FLOCK, "aflock": os.environ["AFLOCK_COMMAND"]}
        running = {}
        for name, kind in programs.items():
            out = open(os.path.join(folder, f"contender.{name}"), "w+")
            self.stack.callback(out.close)
            running[name] = self.start(sys.executable, "-B", f"{HERE}/contender", folder, lock, name, kind, stdout=out)

        def lines():
            open(os.path.join(folder, "enough"), "w").close()
            for name, process in running.items():
                self.assertEqual(process.wait(DEADLINE), 0, name)
            return {name: read(os.path.join(folder, f"contender.{name}")).split() for name in running}

        return lines

    def wrk(self, nginx, folder, path, seconds, connections=200, name="wrk", words=()):
        """In the background; wait for it with wrk_done."""
        return self.start("wrk", "--threads", 2, "--connections", connections, "--duration", f"{seconds}s",
                          "--timeout", f"{int(DEADLINE)}s", "--script", f"{HERE}/load.lua",
                          f"http://127.0.0.1:{nginx.port}", "--", folder, path, name, *words, stdout=subprocess.PIPE)

    def wrk_done(self, process, seconds):
        """How many connections broke."""
        out, _ = process.communicate(timeout=DEADLINE + seconds)
        self.assertEqual(process.returncode, 0, out)
        broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
        return sum(int(number) for number in broken.groups()) if broken else 0

    def assert_free(self, lock):
        """Others can have it, now or as soon as the last request is given up."""
        done = subprocess.run([FLOCK, "--timeout", str(int(DEADLINE)), lock, "true"])
        self.assertEqual(done.returncode, 0, f"{lock} is not free")

    @staticmethod
    def is_held(lock):
        return subprocess.run([FLOCK, "--nonblock", "--no-fork", lock, "true"]).returncode != 0

    def assert_journal(self, journal, answered):
        wrong = journal.complaints(answered)
        self.assertEqual(wrong[:5], [], f"{len(wrong)} complaints about {journal.count()} lines")


def end(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


@contextlib.contextmanager
def scratch():
    folder = tempfile.mkdtemp(prefix="aflock-load.")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def lines_of(folder, what):
    """What load.lua left: `answered` or `refused`."""
    return [line for name in glob.glob(f"{glob.escape(folder)}/{what}.*") for line in read(name).split()]


@contextlib.contextmanager
def held(path):
    """Somebody else has the lock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def descriptors(nginx, of=""):
    """How many descriptors the workers have; only those of files below the folder `of`, if it is given."""
    count = 0
    for pid in nginx.workers(leaving=True):
        for name in glob.glob(f"/proc/{pid}/fd/*"):
            with contextlib.suppress(FileNotFoundError):
                count += os.readlink(name).startswith(of)
    return count


def memory(nginx):
    """Bytes that are the workers' own."""
    total = 0
    for pid in nginx.workers():
        total += sum(int(kib) for kib in re.findall(r"^(?:Private_Dirty|Private_Hugetlb):\s+(\d+) kB",
                                                    read(f"/proc/{pid}/smaps_rollup"), re.M))
    return total * 1024


def status(nginx):
    """What nginx's stub_status counts, at /status: connections, and requests since the beginning."""
    text = nginx.get("/status")[1].decode()
    accepted, handled, requests = (int(n) for n in re.search(r"(\d+) (\d+) (\d+)", text).groups())
    counts = {name: int(n) for name, n in re.findall(r"(\w+): (\d+)", text)}
    return {"requests": requests, "handled": handled, "accepted": accepted, **counts}


STATUS = "location = /status { stub_status; }"


# ------------------------------------------------------------------------------------------- a client that misbehaves


class Client:
    """A connection of its own."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, nginx):
        return cls(*await asyncio.open_connection("127.0.0.1", nginx.port))

    def send(self, data):
        self.writer.write(data)

    async def ask(self, path, method="GET"):
        self.send(request(path, method))
        return await self.answer()

    async def answer(self):
        """(status, body); asyncio.IncompleteReadError or ConnectionError if there is none."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = int(re.search(r"content-length: (\d+)", head, re.I)[1])
        return int(head.split(" ")[1]), await self.reader.readexactly(length)

    async def close(self, reset=False):
        """reset: the other side finds the connection broken, not ended."""
        if reset:
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def request(path, method="GET", more=""):
    return f"{method} {path} HTTP/1.1\r\nHost: load\r\n{more}\r\n".encode()


def run(work):
    """Runs a coroutine; what takes longer than DEADLINE never ends."""
    return asyncio.run(asyncio.wait_for(work, DEADLINE + OPTIONS.seconds))


def main(**defaults):
    parser = argparse.ArgumentParser(usage=__doc__)
    for name in ("seconds", "requests", "times"):
        parser.add_argument(f"--{name}", type=int, default=defaults.get(name, 0))
    parser.add_argument("--no-lock", action="store_true")
    parser.add_argument("names", nargs="*")
    parser.parse_args(namespace=OPTIONS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    # SIGTERM to this process, too, cleans up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    unittest.main(failfast=True, argv=[sys.argv[0], "--verbose", *(f"Load.{name}" for name in OPTIONS.names)],
                  module="__main__")
