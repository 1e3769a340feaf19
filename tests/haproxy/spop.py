"""SPOP as HAProxy speaks it, written a second time from its specification (SPOE.txt): frames are made and read here
without anything of the agent's, so that tests can also send what HAProxy never would."""
import os
import select
import socket
import struct

# Seconds. Where tests are expected to fail, less is enough.
DEADLINE = 4 * int(os.environ.get("AFLOCK_TEST_WATCHDOG", 30))
FIN, ABORT = 1, 2
UNSET, HELLO, DISCONNECT, NOTIFY, AGENT_HELLO, AGENT_DISCONNECT, ACK = 0, 1, 2, 3, 101, 102, 103
GREETING = {"supported-versions": "2.0", "max-frame-size": 16380, "capabilities": "pipelining,async"}


class Typed(bytes):
    """A value that is encoded already."""


def varint(number):
    if number < 240:
        return bytes([number])
    out = [number & 15 | 240]
    number = (number - 240) >> 4
    while number >= 128:
        out.append(number & 127 | 128)
        number = (number - 128) >> 7
    return bytes(out + [number])


def string(text):
    data = text.encode() if isinstance(text, str) else bytes(text)
    return varint(len(data)) + data


def value(data):
    if isinstance(data, Typed):
        return bytes(data)
    if data is None:
        return b"\0"
    if isinstance(data, bool):
        return b"\x11" if data else b"\x01"
    if isinstance(data, int):
        return b"\x04" + varint(data & (1 << 64) - 1)
    return (b"\x08" if isinstance(data, str) else b"\x09") + string(data)


def uint32(number):
    return Typed(b"\x03" + varint(number))


def pairs(table):
    return b"".join(string(name) + value(data) for name, data in table.items())


def message(name, **arguments):
    return string(name) + bytes([len(arguments)]) + pairs(arguments)


def frame(kind, payload=b"", stream=0, number=0, flags=FIN):
    body = bytes([kind]) + struct.pack(">I", flags) + varint(stream) + varint(number) + payload
    return struct.pack(">I", len(body)) + body


def hello(**changes):
    """A HELLO; None as a change leaves that out."""
    table = dict(GREETING, **{name.replace("_", "-"): data for name, data in changes.items()})
    size = table["max-frame-size"]
    if isinstance(size, int) and not isinstance(size, bool):
        table["max-frame-size"] = uint32(size)
    return frame(HELLO, pairs({name: data for name, data in table.items() if data is not None}))


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        assert self.at + size <= len(self.data), "cut off"
        self.at += size
        return self.data[self.at - size:self.at]

    def byte(self):
        return self.take(1)[0]

    def varint(self):
        number = byte = self.byte()
        shift, least = 4, 240
        while byte >= least:
            byte = self.byte()
            number += byte << shift
            shift, least = shift + 7, 128
        return number

    def string(self):
        return self.take(self.varint()).decode()

    def value(self):
        kind = self.byte()
        if kind & 15 == 1:
            return bool(kind & 16)
        if kind in (2, 3, 4, 5):
            return self.varint()
        assert kind == 8, kind
        return self.string()

    def rest(self):
        return self.at < len(self.data)


class Frame:
    def __init__(self, data):
        reader = Reader(data)
        self.kind, self.flags = reader.byte(), struct.unpack(">I", reader.take(4))[0]
        self.stream, self.number = reader.varint(), reader.varint()
        self.values = {}
        while reader.rest():
            if self.kind == ACK:
                assert reader.take(3) == b"\1\3\2", "not a set-var with three arguments in the scope txn"
            name = reader.string()
            self.values[name] = reader.value()
        assert self.flags == FIN

    def __repr__(self):
        return f"<{self.kind} {self.stream}/{self.number} {self.values}>"


class Client:
    """One connection to an agent; it is closed with the `with` that it stands in."""

    def __init__(self, address, greets=True, buffer=None):
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.socket.settimeout(DEADLINE)
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.connect(address)
        if not isinstance(address, str):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = 0
        self.early = []
        if greets:
            self.send(hello())
            self.greeting = self.receive()
            assert self.greeting.kind == AGENT_HELLO, self.greeting

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def exactly(self, size):
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                return None
            data += more
        return data

    def receive(self):
        """The next frame; None: the agent has closed the connection."""
        prefix = self.exactly(4)
        data = prefix and self.exactly(struct.unpack(">I", prefix)[0])
        return data and Frame(data)

    def notify(self, *messages, stream=1):
        """Sends them in one NOTIFY, and returns its number."""
        self.number += 1
        self.send(frame(NOTIFY, b"".join(messages), stream, self.number))
        return self.number

    def answer(self, number):
        """What the ACK of this number says."""
        for got in self.early:
            if got.number == number:
                self.early.remove(got)
                return got.values
        while True:
            got = self.receive()
            assert got and got.kind == ACK, got
            if got.number == number:
                return got.values
            self.early.append(got)

    def ask(self, *messages):
        return self.answer(self.notify(*messages))

    def lock(self, id, key, **arguments):
        return self.ask(message("lock", id=id, key=key, **arguments))

    def unlock(self, id):
        return self.ask(message("unlock", id=id))["unlock"]

    def confirm(self, id):
        return self.ask(message("confirm", id=id))["confirm"]

    def has_nothing(self):
        """Nothing has come so far."""
        return not select.select([self.socket], [], [], 0)[0]
