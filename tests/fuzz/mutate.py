"""Small changes that turn a valid file or text into one that nobody meant to write."""

from __future__ import annotations

import copy
import json
import random
import struct
from typing import Any

ODD_TEXTS = (
    "", " ", "\x00", "\ud800", "\u202e", "\x1b[2J", "a" * 3000, "[" * 500, "1" * 5000, "../../x",
    "/etc/passwd", "<image>", "[0.1, 0.2, 0.3, 0.4]", "[1e999, 0, 1, 1]", "nan", "-0", "0x10", "1_0", "[/b]",
    "<script>", "{{7*7}}", "%s", "\u2028", "\uff11", "\u0663", "yes no yes", "A. B) (C)", "thirty-two", "1,000",
    "1.000.000", "'''", "\\", "é" * 50, "\U0001f600",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, -(10**30), 0.5, -1.5, 1e308, 1e-320, [], {}, [[]],
    [None],
    {"": None}, [0] * 4, [1, 2, 3, 4, 5], ["x"] * 3, [float("inf")] * 4,
)  # fmt: skip


def odd_text(generator: random.Random) -> str:
    """Return text of one of the odd kinds, or several of them in a row."""
    return "".join(generator.choice(ODD_TEXTS) for _ in range(generator.randint(1, 3)))


def odd_value(generator: random.Random) -> Any:
    """Return a value that a field does not expect."""
    return odd_text(generator) if generator.random() < 0.4 else copy.deepcopy(generator.choice(ODD_VALUES))


def mutate_value(value: Any, generator: random.Random) -> Any:
    """Return a JSON-like value with one to three of its places replaced, removed, repeated or renamed."""
    value = json.loads(json.dumps(value))
    for _ in range(generator.randint(1, 3)):
        places = [(owner, key) for owner, key in _places(value)]
        if not places:
            return odd_value(generator)
        owner, key = generator.choice(places)
        match generator.randrange(5):
            case 0:
                del owner[key]
            case 1 if isinstance(owner, list):
                owner.insert(key, owner[key])
            case 2 if isinstance(owner, dict):
                owner[odd_text(generator)] = owner.pop(key)
            case _:
                owner[key] = odd_value(generator)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) inside of a value."""
    found = []
    pending = [value]
    while pending:
        inner = pending.pop()
        keys = list(inner) if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        for key in keys:
            found.append((inner, key))
            pending.append(inner[key])
    return found


def mutate_bytes(content: bytes, generator: random.Random) -> bytes:
    """Return bytes that are cut, flipped, repeated, shuffled, or hold another number."""
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 8))):
        place = generator.randrange(len(changed) + 1)
        size = min(len(changed) - place, generator.choice((1, 2, 4, 8, 64)))
        match generator.randrange(6):
            case 0:
                del changed[place:]
            case 1:
                del changed[place : place + size]
            case 2:
                changed[place:place] = changed[place : place + size] * generator.choice((1, 2, 50))
            case 3:
                changed[place : place + size] = generator.randbytes(size)
            case 4:
                number = generator.choice((0, 1, 2**16, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1))
                form = generator.choice(("<Q", ">Q")) if number >= 2**32 else generator.choice(("<I", ">I"))
                packed = struct.pack(form, number)
                changed[place : place + len(packed)] = packed
            case 5:
                other = generator.randrange(len(changed) + 1)
                changed[place:place] = changed[other : other + size]
    return bytes(changed)
