"""An nginx of one's own, for the tests of the module: in a fresh folder, on a port that nobody else has, unprivileged if
the test is. It is started, reloaded, made to quit, and its error log is read: a worker that crashed and was replaced, an
alert, or a word of a sanitizer fails the test whatever the clients saw.

    with Nginx(workers=2) as nginx:
        nginx.configure(server=f"location / {{ file_lock {nginx.path('a.lock')}; return 200 done; }}")
        nginx.start()
        assert nginx.get("/") == (200, b"done")

Nothing here depends on how long anything takes; waiting for what ought to happen ends after DEADLINE seconds.

In the environment: AFLOCK_NGINX_MODULE is the module to load (none: without), AFLOCK_NGINX_ALSO one that is loaded behind it,
AFLOCK_NGINX_PRELOAD a library that its sanitizer wants to have loaded first.
"""
import ctypes
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

DEADLINE = float(os.environ.get("AFLOCK_TEST_WATCHDOG", 120))
NGINX = os.environ.get("AFLOCK_NGINX") or shutil.which("nginx") or "/usr/sbin/nginx"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
TROUBLE = re.compile(r"exited on signal|\[(alert|crit|emerg)\]|[A-Z][a-z]+Sanitizer|runtime error: |left in connection")


def until(condition, what, limit=None):
    """Waits until condition() is true, and returns its value."""
    end = time.monotonic() + (limit or DEADLINE)
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.01)


def read(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def end_with_parent():
    """In a child: it is not to stay when the test itself is killed."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Nginx:
    """One master and its workers."""

    def __init__(self, workers=1, connections=1024, may_say=()):
        """may_say: regular expressions of lines of the error log that are expected, although they look like trouble."""
        self.workers_wanted = workers
        self.connections = connections
        self.may_say = [re.compile(text) for text in may_say]
        self.folder = tempfile.mkdtemp(prefix="aflock-nginx.")
        self.master = None
        # It is born with its socket, as after an upgrade: no other program can take the port in between.
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.socket.setblocking(False)  # which nginx expects
        self.port = self.socket.getsockname()[1]
        os.mkdir(self.path("html"))

    def path(self, *names):
        return os.path.join(self.folder, *names)

    # --------------------------------------------------------------------------------------------- configuration

    def configure(self, server="", http="", main="", events="", listen="", user="root root"):
        """Writes nginx.conf; each is put into the block, or the directive, of that name."""
        modules = [os.environ.get(f"AFLOCK_NGINX_{which}") for which in ("MODULE", "ALSO")]
        text = [
            *(f"load_module {module};" for module in modules if module),
            f"user {user};" if os.geteuid() == 0 else "",
            f"daemon off; worker_processes {self.workers_wanted}; pid {self.path('nginx.pid')};",
            f"error_log {self.path('error.log')} info;" if "error_log" not in main else "",
            main,
            f"events {{ worker_connections {self.connections}; {events} }}",
            "http {",
            "access_log off;" if "access_log" not in http else "",
            *(f"{name}_temp_path {self.path(name)};" for name in TEMPORARY),
            f"root {self.path('html')};",
            http,
            f"server {{ listen 127.0.0.1:{self.port} backlog=1024{listen and ' ' + listen}; {server} }}",
            "}",
        ]
        with open(self.path("nginx.conf"), "w") as file:
            file.write("\n".join(text) + "\n")

    def command(self, *more):
        return [NGINX, "-p", self.folder, "-c", self.path("nginx.conf"), "-e", self.path("error.log"), *more]

    def environment(self):
        settings = dict(os.environ)
        preload = settings.get("AFLOCK_NGINX_PRELOAD")
        if preload:
            settings["LD_PRELOAD"] = preload
        for name in ("ASAN", "UBSAN", "TSAN"):  # at its end nginx has leaks of its own
            settings[f"{name}_OPTIONS"] = ":".join([
                settings.get(f"{name}_OPTIONS", ""), f"leak_check_at_exit=0:log_path={self.path('sanitizer')}"]).lstrip(":")
        # All modules of nginx have tables of the same names. Who has leaked is seen through nginx's own frames only slowly.
        settings["ASAN_OPTIONS"] += ":detect_odr_violation=0:fast_unwind_on_malloc=0"
        settings["LSAN_OPTIONS"] = f"suppressions={os.path.dirname(os.path.abspath(__file__))}/leaks.supp:print_suppressions=0"
        return settings

    def test(self):
        """What `nginx -t` says of the configuration: (exit status, text)."""
        done = subprocess.run(self.command("-t"), capture_output=True, text=True, env=self.environment(),
                              timeout=DEADLINE)
        return done.returncode, done.stderr

    # --------------------------------------------------------------------------------------------- life

    def start(self):
        """Until all workers run."""
        environment = {**self.environment(), "NGINX": f"{self.socket.fileno()};"}
        with open(self.path("stderr"), "wb") as stderr:
            self.master = subprocess.Popen(self.command(), env=environment, stdin=subprocess.DEVNULL, stdout=stderr,
                                           stderr=stderr, pass_fds=[self.socket.fileno()], start_new_session=True,
                                           preexec_fn=end_with_parent)
        self.socket.close()
        until(lambda: self.master.poll() is not None or self.started() >= self.workers_wanted, "the workers start")
        assert self.master.poll() is None, f"nginx ended: {self.said()}"

    def started(self):
        """How many workers were started since the beginning, as far as the error log says so."""
        return len(re.findall(r"start worker process \d+", self.error_log()))

    def children(self):
        return [int(pid) for pid in read(f"/proc/{self.master.pid}/task/{self.master.pid}/children").split()]

    def workers(self, leaving=False):
        """Process ids of the workers that serve; of those that are leaving, too."""
        def serves(pid):
            title = read(f"/proc/{pid}/cmdline")
            return "worker process" in title and (leaving or "shutting down" not in title)
        return [pid for pid in self.children() if serves(pid)]

    def reload(self):
        """Until the new workers serve. Old ones may still be leaving."""
        before = self.started()
        self.master.send_signal(signal.SIGHUP)
        until(lambda: self.started() >= before + self.workers_wanted, f"new workers serve: {self.said()}")

    def quit(self, number=signal.SIGQUIT):
        """Makes it quit (SIGTERM: at once), and waits for it."""
        if self.master and self.master.poll() is None:
            self.master.send_signal(number)
            self.master.wait(DEADLINE)

    # --------------------------------------------------------------------------------------------- requests

    def connect(self, timeout=None):
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout or DEADLINE)

    def ask(self, method, path, body=None, headers=()):
        """(status, headers, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def get(self, path):
        """(status, body)."""
        status, _, body = self.ask("GET", path)
        return status, body

    # --------------------------------------------------------------------------------------------- what it said

    def error_log(self):
        return read(self.path("error.log"))

    def said(self):
        """The end of all that it wrote."""
        reports = [read(self.path(name)) for name in sorted(os.listdir(self.folder)) if name.startswith("sanitizer")]
        return "\n".join([*reports, read(self.path("stderr")), *self.error_log().splitlines()[-40:]])

    def trouble(self):
        """Lines that must not be there."""
        lines = [*read(self.path("stderr")).splitlines(), *self.error_log().splitlines()]
        for name in os.listdir(self.folder):
            if name.startswith("sanitizer"):
                lines += [f"{name}: a sanitizer's report: {read(self.path(name))}"]
        return [line for line in lines if (TROUBLE.search(line) or line.startswith("sanitizer"))
                and not any(expected.search(line) for expected in self.may_say)]

    def check(self):
        found = self.trouble()
        assert not found, "nginx says:\n" + "\n".join(found[:20])

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        """Makes it quit, looks what it said, and removes everything."""
        try:
            if error is None:
                self.quit()
                self.check()
            else:
                print(f"--- nginx said:\n{self.said()}\n---", file=sys.stderr)
        finally:
            self.socket.close()
            if self.master:
                try:
                    os.killpg(self.master.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                self.master.wait()
            shutil.rmtree(self.folder, ignore_errors=True)
