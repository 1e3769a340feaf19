"""What the tests of the command share: how programs are run, how tests are.

A script of tests imports everything from here, marks its tests with @ours (or @shared: of what flock(1) does too), and
ends with sys.exit(main()). See `run` for its arguments.
"""
import atexit
import contextlib
import errno
import json
import os
import pty
import re
import select
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time

DEADLINE = 60
FLOCK = "/usr/bin/flock"
HERE = os.path.dirname(os.path.abspath(__file__))
NOBODY = 65534

SHARED, OURS, PRELOADING = [], [], []


class Skip(Exception):
    pass


def shared(test):
    """A test of what flock(1) does too."""
    SHARED.append(test)
    return test


def ours(test):
    """A test of what flock(1) does not do, or does otherwise."""
    OURS.append(test)
    return test


def preloads(test):
    """A test that preloads mishaps.c."""
    PRELOADING.append(test)
    return test


def equal(got, wanted, what=""):
    assert got == wanted, f"{what}: got {got!r}, wanted {wanted!r}" if what else f"got {got!r}, wanted {wanted!r}"


def until(condition, what):
    """Waits until condition() is true, and returns its value."""
    end = time.monotonic() + DEADLINE
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.005)


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except FileNotFoundError:
        return ""


class Process:
    """A program in the background, in a process group of its own."""

    def __init__(self, arguments, **options):
        self.err_path = tempfile.mktemp(dir=T.scratch)
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("start_new_session", True)
        options.setdefault("cwd", T.dir)
        with open(self.err_path, "wb") as err:
            self.popen = subprocess.Popen(arguments, stderr=err, **options)
        self.pid = self.popen.pid
        T.processes.append(self)

    @property
    def err(self):
        return read(self.err_path)

    def line(self):
        """The next line of its standard output."""
        ready, _, _ = select.select([self.popen.stdout], [], [], DEADLINE)
        assert ready, f"no output; standard error: {self.err!r}"
        return self.popen.stdout.readline().decode().rstrip("\n")

    def status(self):
        """How it ended: the exit status, or minus the number of the signal."""
        return self.popen.wait(DEADLINE)

    def running(self):
        return self.popen.poll() is None

    def send(self, number):
        os.kill(self.pid, number)

    def until_waiting(self):
        """Until it waits for a lock: aflock says so (--verbose), for flock(1) the kernel does."""
        until(lambda: "waiting for" in self.err
              or re.search(rf"-> FLOCK .* {self.pid} ", read("/proc/locks"))
              or not self.running(), "wait")
        assert self.running(), f"ended instead of waiting: {self.status()} {self.err!r}"

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # not reaped yet, or gone: its own group in any case
        with contextlib.suppress(ProcessLookupError):
            self.popen.kill()
        self.popen.wait(DEADLINE)
        if self.popen.stdout:
            self.popen.stdout.close()


class T:
    """The test that runs."""
    aflock = None
    dir = None      # its working directory
    scratch = None  # for what the test itself needs
    processes = []


def run(arguments, **options):
    """Runs to the end: (status, standard output, standard error)."""
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("cwd", T.dir)
    done = subprocess.run(arguments, capture_output=True, timeout=DEADLINE, **options)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def aflock(*arguments, **options):
    return run([T.aflock, *arguments], **options)


def status(*arguments, **options):
    return aflock(*arguments, **options)[0]


def shell(script, **options):
    """Runs a script in which $L is the command under test and $F is flock(1)."""
    return run(["sh", "-c", script], env={**os.environ, "L": T.aflock, "F": FLOCK}, **options)


def start(*arguments, **options):
    return Process([T.aflock, *arguments], **options)


def path(name):
    return os.path.join(T.dir, name)


def touch(name, text="", mode=0o644):
    with open(path(name), "w") as f:
        f.write(text)
    os.chmod(path(name), mode)


def is_free(name, mode="-x"):
    """Whether flock(1) could have the lock now."""
    got = run([FLOCK, "-n", "-E", "99", mode, name, "true"])[0]
    assert got in (0, 99), got
    return got == 0


def is_waited_for(name):
    """Whether somebody is blocked in the kernel for this file."""
    return re.search(rf"-> FLOCK .*:{os.stat(path(name)).st_ino} ", read("/proc/locks"))


def hold(name, mode="-x", tool=FLOCK):
    """A process that holds the lock until end(): sleep 600, and no shell any more."""
    holder = Process([tool, mode, "-F", name, "sh", "-c", "echo held; exec sleep 600"])
    equal(holder.line(), "held")
    until(lambda: read(f"/proc/{holder.pid}/cmdline") == "sleep\x00600\x00", "the shell executes sleep")
    return holder


def build(name, *flags):
    """Compiles one of the C files beside this script."""
    out = os.path.join(T.scratch, name)
    subprocess.run([os.environ.get("CC", "cc"), "-o", out, os.path.join(HERE, name + ".c"), *flags], check=True,
                   timeout=60)
    return out


def preloading(mishap):
    """An environment in which something happens to the command under test; see mishaps.c. A sanitizer in the command
    has to put up with not being the first library."""
    return {**os.environ, "LD_PRELOAD": build("mishaps", "-shared", "-fPIC"), "MISHAP": mishap,
            "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0"}


def as_nobody():
    """Options for a program run as a user to whom permissions apply."""
    if os.getuid() != 0:
        return {}
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


# A command that notes each signal that it gets in the file "log", and ends with 7 on USR1.
LOGGER = """
import os, signal, sys
def note(number, frame):
    with open("log", "a") as f:
        f.write(signal.Signals(number).name + "\\n")
    if number == signal.SIGUSR1:
        os._exit(7)
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
    signal.signal(s, note)
with open("pid.new", "w") as f:
    f.write(str(os.getpid()))
os.rename("pid.new", "pid")
while True:
    signal.pause()
"""


def logger():
    return [sys.executable, "-c", LOGGER]


def logger_pid():
    return int(until(lambda: read(path("pid")), "the command starts"))


def log():
    return read(path("log")).split()


def until_logged(number):
    until(lambda: signal.Signals(number).name in log(), f"the command gets {number}")


def default_signals():
    """The dispositions of an interactive shell's job."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


PASSED, FAILED, SKIPPED = 0, 1, 77
AT_ONCE = 4  # they wait more than they work


def run_test(test):
    T.scratch = tempfile.mkdtemp(prefix="aflock-command-")
    os.chmod(T.scratch, 0o755)
    T.dir = os.path.join(T.scratch, "work")
    os.mkdir(T.dir)
    T.processes = []
    name = test.__name__.replace("_", " ")
    try:
        test()
        print(f"ok {name}", flush=True)
        return PASSED
    except Skip as why:
        print(f"skip {name}: {why}", flush=True)
        return SKIPPED
    except Exception as e:  # whatever went wrong: the other tests still run
        line = sys.exc_info()[2].tb_next.tb_lineno if sys.exc_info()[2].tb_next else 0
        print(f"not ok {name}: line {line}: {type(e).__name__}: {e}", flush=True)
        return FAILED
    finally:
        for process in T.processes:
            process.end()
        shutil.rmtree(T.scratch, ignore_errors=True)


def run_all(tests):
    """Each in a process of its own, a few at a time: how they ended, in the order in which they did."""
    results, running = [], 0
    for test in [*tests, *[None] * AT_ONCE]:
        if running == AT_ONCE or test is None and running:
            results.append(os.waitstatus_to_exitcode(os.wait()[1]))
            running -= 1
        if test and os.fork() == 0:
            result = FAILED
            try:
                result = run_test(test)
            finally:
                os._exit(result)  # what is to be done at the end is the parent's
        running += bool(test)
    return results


def main():
    T.aflock = os.path.abspath(shutil.which(sys.argv[1]) or sys.argv[1])
    # the thread sanitizer sleeps for a second at each exit
    os.environ["TSAN_OPTIONS"] = os.environ.get("TSAN_OPTIONS", "") + " atexit_sleep_ms=0"
    is_flock = "util-linux" in subprocess.run([T.aflock, "--version"], capture_output=True, text=True).stdout
    # other users run it too, and the checkout may be in a folder that is closed to them
    home = tempfile.mkdtemp(prefix="aflock-command-")
    os.chmod(home, 0o755)
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    T.aflock = T.aflock if is_flock else shutil.copy(T.aflock, os.path.join(home, "aflock"))
    tests = SHARED if is_flock else SHARED + OURS
    options = sys.argv[2:]
    if options[:1] == ["--static"]:
        tests = [t for t in tests if t not in PRELOADING]
        options = options[1:]
    if options[:1] == ["-k"]:
        tests = [t for t in tests if options[1] in t.__name__]
    for number in (*ENDING, signal.SIGPIPE):
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
    results = run_all(tests)
    failed = sum(result not in (PASSED, SKIPPED) for result in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    if failed or not results:
        return FAILED
    return SKIPPED if SKIPPED in results else PASSED  # for ctest: a skipped test is not a passed one
