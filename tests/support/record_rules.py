"""The rules for records of soft and lease locks, said a second time, in the language in which they were made.

Reads lines "HEX READING": the bytes of a record, and what core/locks/record.c makes of them. Ends with 1 at the first
that Python reads otherwise. How a reading is written: describe() in tests/test_record.c.
"""
import struct
import sys

SENTINEL = b"1\nfilelock-strict-v1\0\n0\n"


def hexed(text):
    return text.encode().hex() or "-"


def number(text):
    value = int(text)
    return "beyond" if value < 0 or value >> 192 else str(value)


def valid_pid(text):
    pid = int(text)
    if pid < 1 or pid >= 1 << 31:
        raise ValueError(pid)
    return pid


def double(text):
    value = float(text)
    return "nan" if value != value else struct.pack(">d", value).hex()


def lease(lines):
    found = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if not equals:
            raise ValueError(line)
        found[name] = value
    if not found.get("host") or "mode" not in found:
        raise ValueError(found)
    pid = valid_pid(found["pid"])
    start = number(found["start"]) if "start" in found else "-"
    duration = double(found["duration"]) if "duration" in found else "0" * 16
    kind = "lease" if found["mode"] == "lease" else "other"
    if kind == "lease" and not ("token" in found and 0 < float(found["duration"]) < float("inf")):
        raise ValueError(found)
    texts = [hexed(found.get(name, "")) for name in ("token", "duration")]
    return f"{kind} {pid} {hexed(found['host'])} {start} {texts[0]} {texts[1]} {duration}"


def reading(data):
    if data == SENTINEL:
        return "sentinel"
    if not data:
        return "empty"
    try:
        if len(data) > 1024:
            raise ValueError("size")
        lines = data.decode().strip().splitlines()
        if lines[0] == "filelock/2":
            return lease(lines[1:])
        pid, host, *start = lines
        if len(start) > 1:
            raise ValueError(lines)
        return f"soft {valid_pid(pid)} {hexed(host)} {number(start[0]) if start else '-'}"
    except (ValueError, IndexError, KeyError):
        return "malformed"


compared = 0
kinds = {}
for row in sys.stdin:
    record, ours = row.rstrip("\n").split(" ", 1)
    theirs = reading(bytes.fromhex(record[1:]))
    if ours != theirs:
        print(f"{bytes.fromhex(record[1:])!r}\n  read as  {ours}\n  means    {theirs}")
        sys.exit(1)
    compared += 1
    kinds[ours.split()[0]] = kinds.get(ours.split()[0], 0) + 1
print(f"figure: {compared} records read alike:", ", ".join(f"{kinds[k]} {k}" for k in sorted(kinds)))
