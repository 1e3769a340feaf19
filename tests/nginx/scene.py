"""What the tests of the module share: an nginx with the directives of a test, a backend that does what it is told, clients
that wait for their answer, and locks seen from outside."""
import contextlib
import fcntl
import http.client
import http.server
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import unittest

from server import DEADLINE, Nginx, end_with_parent, read, until

FLOCK = "/usr/bin/flock"
# What is asked for by the tests themselves, and what they look at.
STATUS = "location = /status { file_lock off; stub_status; }"
LOG = "log_format locks '$request_uri $status $file_lock_status $file_lock_path $file_lock_wait';"


class Backend(http.server.ThreadingHTTPServer):
    """Answers "done", with the body of the request behind it. /hold...: when told (let_go); /die...: never, it closes the
    connection; /redirect/X, /hold-then/X: X-Accel-Redirect to /X."""
    daemon_threads = True

    def __init__(self):
        self.asked = []  # request lines, as they come
        self.answered = []
        self.gates = {}
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Answers)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def gate(self, path):
        with self.lock:
            return self.gates.setdefault(path, threading.Event())

    def let_go(self, path):
        self.gate(path).set()

    def was_asked(self, path, times=1):
        until(lambda: self.asked.count(path) >= times, f"the backend is asked for {path}, only for {self.asked}")

    def close(self):
        for gate in list(self.gates.values()):
            gate.set()
        self.shutdown()
        self.server_close()


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path.startswith("/hold"):
            self.server.gate(path).wait(DEADLINE)
        if path.startswith("/die"):
            self.close_connection = True
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(200)
            if path.startswith(("/redirect", "/hold-then")):
                self.send_header("X-Accel-Redirect", path.removeprefix("/redirect").removeprefix("/hold-then"))
            self.send_header("Content-Length", str(4 + len(body)))
            self.end_headers()
            self.wfile.write(b"done" + body)
        self.server.answered.append(path)

    do_POST = do_GET

    def log_message(self, *words):
        pass


class Asked:
    """A request whose answer is waited for later."""

    def __init__(self, nginx, path, method="GET", headers="Connection: close", body=b"", send=None):
        self.socket = nginx.connect()
        text = f"{method} {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n\r\n".encode() + body
        self.socket.sendall(text if send is None else send)

    def answer(self):
        """(status, body)."""
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        return response.status, response.read()

    def status(self):
        return self.answer()[0]

    def go_away(self, abruptly=False):
        if abruptly:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


class Streams:
    """One connection of HTTP/2, on which requests are asked and taken back."""
    DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
    LAST = 1 # a flag of the first two

    def __init__(self, nginx):
        self.socket = nginx.connect()
        self.file = self.socket.makefile("rb")
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(self.SETTINGS)

    def send(self, kind, flags=0, stream=0, payload=b""):
        self.socket.sendall(struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload)

    def ask(self, stream, path, body=b""):
        """A GET, or a POST with a body: of HPACK no more than is needed."""
        names = (b"\x83" if body else b"\x82") + b"\x86\x04" + bytes([len(path)]) + path.encode() + b"\x01\x04test"
        self.send(self.HEADERS, 0x4 | (0 if body else self.LAST), stream, names)
        if body:
            self.send(self.DATA, self.LAST, stream, body)

    def take_back(self, stream):
        self.send(self.RST_STREAM, 0, stream, struct.pack(">I", 8))

    def was_read(self):
        """All that was sent so far."""
        self.send(self.PING, 0, 0, b"12345678")
        while self.frame()[:2] != (self.PING, 1):
            pass

    def frame(self):
        head = self.file.read(9)
        length, (kind, flags, stream) = int.from_bytes(head[:3], "big"), struct.unpack(">BBI", head[3:])
        return kind, flags, stream, self.file.read(length)

    def good_answer(self):
        """The stream that is answered next, with 200, and the answer's body."""
        bodies = {}
        while True:
            kind, flags, stream, payload = self.frame()
            if kind == self.HEADERS:
                assert payload[0] == 0x88 or payload[1] == 0x88, payload
                bodies[stream] = b""
            if kind == self.DATA:
                bodies[stream] += payload
            if kind in (self.HEADERS, self.DATA) and flags & self.LAST:
                return stream, bodies[stream]

    def close(self):
        self.file.close()
        self.socket.close()


@contextlib.contextmanager
def held(path, how=fcntl.LOCK_EX):
    """Somebody else has the lock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


def is_free(path, how=fcntl.LOCK_EX):
    try:
        with held(path, how | fcntl.LOCK_NB):
            return True
    except BlockingIOError:
        return False


class Case(unittest.TestCase):
    """Each test has an nginx, a backend if it wants one, and processes that end with it."""

    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)

    def backend(self):
        backend = Backend()
        self.stack.callback(backend.close)
        return backend

    def prepare(self, workers=1, **settings):
        """An nginx that is not configured yet, with a folder for locks."""
        nginx = self.stack.enter_context(Nginx(workers, **settings))
        os.mkdir(nginx.path("locks"))
        return nginx

    def configure(self, nginx, server, http="", **more):
        log = f"{LOG} access_log {nginx.path('access.log')} locks;"
        nginx.configure(server=f"{STATUS} {server}", http=f"{log} {http}", **more)

    def nginx(self, server, http="", workers=1, may_say=(), **more):
        """One that runs. What is said in `server` of locks/ is in its folder."""
        nginx = self.prepare(workers, may_say=may_say)
        self.configure(nginx, server, http, **more)
        nginx.start()
        return nginx

    def lock(self, nginx, name="a.lock"):
        return nginx.path("locks", name)

    def names(self, nginx):
        return sorted(os.listdir(nginx.path("locks")))

    # ------------------------------------------------------------------------------------------------------ requests

    def ask(self, nginx, path, *arguments, **settings):
        asked = Asked(nginx, path, *arguments, **settings)
        self.stack.callback(asked.socket.close)
        return asked

    def busy(self, nginx):
        """Requests under way, but for this one."""
        return int(re.search(rb"Writing: (\d+)", nginx.get("/status")[1])[1]) - 1

    def until_busy(self, nginx, count):
        """So many requests are under way (of one worker: what can be done at once was done)."""
        until(lambda: self.busy(nginx) == count, f"{count} requests are under way, but {self.busy(nginx)}")

    def asked_to_wait(self, nginx, path, others=0, **settings):
        """A request that waits, as far as one can see; `others` are under way before."""
        asked = self.ask(nginx, path, **settings)
        self.until_busy(nginx, others + 1)
        return asked

    def until_free(self, path, how=fcntl.LOCK_EX):
        until(lambda: is_free(path, how), f"{path} is free")

    def assert_held(self, path, how=fcntl.LOCK_EX):
        self.assertFalse(is_free(path, how))
        self.assertEqual(subprocess.run([FLOCK, "-n", path, "true"], check=False).returncode,
                         1 if how == fcntl.LOCK_EX else 0)

    # ------------------------------------------------------------------------------------------------------ what is said

    def logged(self, nginx, path):
        """Of each request for `path`, in order: (status, $file_lock_status, $file_lock_path, $file_lock_wait)."""
        lines = [line.split() for line in read(nginx.path("access.log")).splitlines()]
        return [(int(line[1]), *line[2:]) for line in lines if line[0] == path]

    def until_logged(self, nginx, path, count=1):
        until(lambda: len(self.logged(nginx, path)) >= count, f"{count} requests for {path} are logged")
        return self.logged(nginx, path)

    def words(self, nginx, path, count=1):
        """Of each request for `path`: (status, $file_lock_status)."""
        return [line[:2] for line in self.until_logged(nginx, path, count)]

    def start(self, *words, **settings):
        process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, preexec_fn=end_with_parent,
                                   text=True, **settings)
        self.stack.callback(self.end, process)
        return process

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


def main():
    # SIGTERM to this process, too, cleans up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    unittest.main(failfast=True, argv=[sys.argv[0], "--verbose", *sys.argv[1:]])
