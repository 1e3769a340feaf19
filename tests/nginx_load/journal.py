"""Work that two must not do at a time, and that tells when they did: a line is appended in two halves, and a counter is
read and written back, with pauses in between. Who works has a marker file of his own making; who finds one has met
somebody else.

What a lock has to keep: no meeting, only whole lines, each at most once, and as many as were counted.
"""
import contextlib
import os
import re

LINE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")


class Journal:
    def __init__(self, folder):
        self.lines = os.path.join(folder, "lines")
        self.counter = os.path.join(folder, "counter")
        self.marker = os.path.join(folder, "marker")
        self.meetings = os.path.join(folder, "meetings")

    def append(self, line):
        """A generator: whoever runs it pauses where it yields."""
        self.enter(line)
        count = int(read(self.counter) or 0)
        write(self.lines, line[:-2], os.O_APPEND)
        yield
        write(self.lines, line[-2:] + "\n", os.O_APPEND)
        yield
        write(self.counter, str(count + 1), os.O_TRUNC)
        with contextlib.suppress(FileNotFoundError):  # another one came, and went
            os.unlink(self.marker)

    def enter(self, line):
        try:
            write(self.marker, line, os.O_EXCL)
        except FileExistsError:
            write(self.meetings, f"{line} meets {read(self.marker)}\n", os.O_APPEND)
            write(self.marker, line, os.O_TRUNC)

    def complaints(self, answered):
        """What is wrong, if anything. answered: the lines whose writers were told that they are there."""
        wrong = read(self.meetings).splitlines()
        lines = read(self.lines).splitlines()
        present = set(lines)
        wrong += [f"broken line: {line}" for line in lines if not LINE.fullmatch(line)]
        if len(present) != len(lines):
            wrong += [f"{len(lines) - len(present)} lines are there twice"]
        wrong += [f"lost: {line}" for line in answered if line not in present]
        if len(set(answered)) != len(answered):
            wrong += ["an answer came twice"]
        count = int(read(self.counter) or 0)
        if count != len(lines):
            wrong += [f"{len(lines)} lines, {count} counted"]
        return wrong

    def count(self):
        return read(self.lines).count("\n")


def read(path):
    try:
        with open(path, newline="") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def write(path, text, how):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o666)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
