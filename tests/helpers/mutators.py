"""Seeded changes to files: of bytes anywhere, and of what a format calls a field."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import pickletools
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import onnx
from google.protobuf.message import Message

Mutator = Callable[[bytes, random.Random], bytes]

# Numbers that have hurt readers.
NUMBERS = [0, 1, 2, 3, 4, 8, 13, 31, 32, 33, 63, 64, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32]
NUMBERS += [2**48, 2**60, 2**62, 2**63 - 1, 2**63, 2**64 - 64, 2**64 - 1]
TEXTS = [
    "",
    "x",
    "\0",
    "../x",
    "/etc/passwd",
    "é😀\u202e",
    "\x1b[2J",
    "a" * 5000,
    "0",
    "NaN",
    "{{ x }}",
    "\\p{L}+",
]
ODD: list[Any] = [None, True, False, -1, 1.5, 1e308, -0.0, [], {}, [[]], [None], {"": 0}, {"type": "x"}]


def any_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut out, put in, copied or replaced by a number, anywhere."""
    mutant = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(mutant) + 1)
        size = rng.choice([1, 4, 8, 100])
        match rng.randrange(6):
            case 0:
                mutant[at : at + 1] = rng.randbytes(1)
            case 1 if at < len(mutant):
                mutant[at] ^= 1 << rng.randrange(8)
            case 2:
                del mutant[at : at + size]
            case 3:
                mutant[at:at] = rng.randbytes(size)
            case 4:
                mutant[at:at] = mutant[at : at + size] * rng.choice([1, 2, 50])
            case _:
                width = rng.choice([1, 2, 4, 8])
                mutant[at : at + width] = struct.pack("<Q", rng.choice(NUMBERS))[:width]
    return bytes(mutant[: rng.randrange(len(mutant) + 1)] if rng.random() < 0.1 else mutant)


def odd_value(rng: random.Random, value: Any = None) -> Any:
    """A value of any JSON type; often one that is close to the old one."""
    match rng.randrange(6):
        case 0 if type(value) in (int, float):
            return rng.choice([value + 1, value - 1, -value, value * 2, value * 1000, str(value), [value]])
        case 1 if isinstance(value, str):
            return rng.choice([value + "x", value[:-1], value.upper(), value * 100, [value], {value: value}])
        case 2 if isinstance(value, list):
            by_index = {str(i): None for i in range(len(value))}
            return rng.choice([value * 2, value[:-1], value[::-1], [value], by_index])
        case 3:
            return rng.choice([*NUMBERS, 1 - rng.choice(NUMBERS)])
        case 4:
            return rng.choice(TEXTS)
        case _:
            return copy.deepcopy(rng.choice(ODD))  # what is put in may be changed next


def mutate_value(root: Any, rng: random.Random) -> Any:
    """A JSON value with one part replaced, removed, renamed, put in or nested deep."""
    parent, key = None, None
    value = root
    while isinstance(value, dict | list) and value and rng.random() < 0.85:
        parent, key = value, rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        value = parent[key]
    if parent is None:
        return odd_value(rng, root)
    match rng.randrange(8):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[rng.choice(TEXTS)] = parent.pop(key)
        case 2 if isinstance(parent, dict):
            parent[rng.choice(TEXTS)] = odd_value(rng)
        case 3 if isinstance(parent, list):
            parent.insert(key, odd_value(rng, value))
        case 4:
            for _ in range(rng.choice([1, 3, 40, 3000])):
                value = [value] if rng.random() < 0.5 else {"a": value}
            parent[key] = value
        case _:
            parent[key] = odd_value(rng, value)
    return root


def json_text(data: bytes, rng: random.Random) -> bytes:
    """A part of a JSON file changed, or bytes of its text."""
    if rng.random() < 0.2:
        return any_bytes(data, rng)
    value = json.loads(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        value = mutate_value(value, rng)
    try:
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    except RecursionError:  # nested twice
        return data
    if rng.random() < 0.05:  # a key that stands twice
        text = text.replace("{", '{"twice": 1, "twice": 2, ' if rng.random() < 0.5 else '{"a": NaN, ', 1)
    return text.encode()


def safetensors_header(data: bytes, rng: random.Random) -> bytes:
    """A part of the JSON header changed, its length kept right most of the time."""
    size = int.from_bytes(data[:8], "little")
    header = json_text(data[8 : 8 + size], rng)
    length = rng.choice(NUMBERS) if rng.random() < 0.05 else len(header)
    return struct.pack("<Q", length) + header + data[8 + size :]


def prefix_header(data: bytes, rng: random.Random) -> bytes:
    """A file of `--prefix` with a part of its header or other bytes changed, and the hash that belongs to it,
    as an attacker would write them; or bytes of the file."""
    if rng.random() < 0.2:
        return any_bytes(data, rng)
    end = 12 + int.from_bytes(data[8:12], "little")
    header, rest = data[12:end], data[end:-32]
    if rng.random() < 0.7:
        header = json_text(header, rng)
    else:
        rest = any_bytes(rest, rng)
    length = rng.choice(NUMBERS) % 2**32 if rng.random() < 0.05 else len(header)
    content = data[:8] + struct.pack("<I", length) + header + rest
    return content + hashlib.sha256(content).digest()


def gguf_field(data: bytes, rng: random.Random) -> bytes:
    """A length, count, type, size or offset replaced by an odd number."""
    marks = (b"llama.", b"tokenizer.", b"blk.", b"GGUF", b"general.", b"token_embd", b"flag")
    spots = [i for i in range(min(len(data), 20_000)) if data.startswith(marks, i)]
    at = max(rng.choice(spots or [0]) + rng.randrange(-8, 60), 0)
    width = rng.choice([1, 4, 8])
    return data[:at] + struct.pack("<Q", rng.choice(NUMBERS))[:width] + data[at + width :]


# What a template is made of, with what has hurt: deep nesting, products, references to itself, large widths.
TEMPLATE_PARTS = (
    "{{ messages }}", "{% for m in messages %}", "{% endfor %}", "{% if m %}", "{% endif %}",
    "{{ x|tojson }}", "{% set ns = namespace() %}", "{% set ns.x = ns %}", "{{ ns }}", "{{ ns|tojson }}",
    "{{ 'a' * 1000000 }}", "{{ [messages] * 10000 }}", "{{ range(1000000)|list }}",
    "{{ '{:>100000000}'.format('a') }}", "{#", "#}", "{{ messages|tojson(indent=100000000) }}",
    "{{ raise_exception() }}", "{{ strftime_now('%' * 9) }}",
    "{% macro turn(m) %}{{ turn(m) }}{% endmacro %}", "{{ turn(1) }}", "{{ " + "-" * 3000 + "1 }}",
    "{% raw %}", "{{ " + "(" * 3000, "{{ " + "not " * 3000 + "1 }}", "|replace('', 'aaaa')",
    "|batch(3)", ".__class__", "|map(attribute='role')", "[::-1]", "|join",
    "|sort", "loop.cycle()", "~", "**", "//0", "%", "\0", "é😀",
)  # fmt: skip
TOKEN = re.compile(r"\{[{%#]-?|-?[}%#]\}|\w+|\s+|.", re.DOTALL)


def template_parts(data: bytes, rng: random.Random) -> bytes:
    """Tokens of a template removed, doubled, moved, or replaced by what templates are made of; or bytes."""
    if rng.random() < 0.1:
        return any_bytes(data, rng)
    tokens = TOKEN.findall(data.decode())
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, other = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        match rng.randrange(6):
            case 0:
                del tokens[at]
            case 1:
                tokens[at:at] = tokens[other : other + rng.choice([1, 5, 20])]
            case 2:
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case 3:
                tokens[at] = str(rng.choice(NUMBERS)) if rng.random() < 0.5 else repr(rng.choice(TEXTS))
            case _:
                tokens.insert(at, rng.choice(TEMPLATE_PARTS))
    return "".join(tokens).encode()


def zip_entry(data: bytes, rng: random.Random) -> bytes:
    """An archive with an odd name, method or content of an entry; or a header's bytes changed."""
    if rng.random() < 0.5:
        marks = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")
        spots = [i for i in range(len(data)) if data.startswith(marks, i)]
        at = rng.choice(spots or [0]) + rng.randrange(50)
        width = rng.choice([1, 2, 4])
        return data[:at] + struct.pack("<Q", rng.choice(NUMBERS))[:width] + data[at + width :]
    methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    buffer = io.BytesIO()
    with (
        warnings.catch_warnings(),
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(buffer, "w") as new,
    ):
        warnings.simplefilter("ignore")  # a name that stands twice
        for entry in old.infolist():
            content, name = old.read(entry), entry.filename
            if rng.random() < 0.3:
                name = rng.choice([*TEXTS, name + "/x", "é" * 300, f"../{name}", name * 2, "m/config.json"])
            if rng.random() < 0.3:
                content = any_bytes(content, rng) if content else content
            made = zipfile.ZipInfo(name or "x")
            made.external_attr = rng.choice([0, 0, 0o120777 << 16, 0o40755 << 16])
            new.writestr(made, content, rng.choice(methods))
    mutant = buffer.getvalue()
    return any_bytes(mutant, rng) if rng.random() < 0.5 else mutant


# Instructions of a pickle, with what has hurt: names, calls, objects, deep nesting, large claims.
PICKLE_PARTS = (
    *(name + b"\n" for name in (
        b"cos\nsystem", b"cbuiltins\neval", b"ctorch\nFloatStorage", b"ctorch._utils\n_rebuild_parameter",
        b"ccollections\nOrderedDict", b"ctorch\nSize",
    )),
    *(bytes([code]) for code in b"RbQ()t]}suaeN0.\x81\x93\x94\x95"), b"h\x00", b"q\x00", b"X\xff\xff\xff\x7f",
    b"\x85" * 3000, b"(" * 3000, b"]" * 3000, b"\x8a\xff" + b"\x7f" * 255, b"X\x02\x00\x00\x00os",
)  # fmt: skip


def _pickle(data: bytes, rng: random.Random) -> bytes:
    """Instructions of a pickle removed, doubled, moved or put in, numbers replaced by odd ones."""
    spots = [at for _, _, at in pickletools.genops(data)]
    parts = [data[begin:end] for begin, end in zip(spots, [*spots[1:], len(data)], strict=True)]
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        numbers = [i for i, part in enumerate(parts) if part[:1] in b"JKM\x8a"]
        match rng.randrange(7):
            case 0:
                del parts[at]
            case 1:
                parts[at:at] = parts[other : other + rng.choice([1, 5, 20])]
            case 2:
                parts[at], parts[other] = parts[other], parts[at]
            case 3:
                parts.insert(at, rng.choice(PICKLE_PARTS))
            case _ if numbers:
                number = rng.choice([*NUMBERS, -1, 5, 6, 7])
                parts[rng.choice(numbers)] = b"\x8a\x09" + number.to_bytes(9, "little", signed=True)
    return b"".join(parts)


def torch_pickle(data: bytes, rng: random.Random) -> bytes:
    """The pickle of a file of torch.save changed, in its zip or among the pickles of the older form."""
    if data.startswith(b"PK") and rng.random() < 0.2:
        return zip_entry(data, rng)
    if not data.startswith(b"PK"):
        begin = data.index(b"\x80\x02ccollections")
        end = data.index(b".\x80\x02]", begin) + 1
        return data[:begin] + _pickle(data[begin:end], rng) + data[end:]
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            content, dated = old.read(entry), zipfile.ZipInfo(entry.filename)  # not the time of this run
            new.writestr(dated, _pickle(content, rng) if entry.filename.endswith(".pkl") else content)
    return buffer.getvalue()


def graph_field(data: bytes, rng: random.Random) -> bytes:
    """A field of a graph, of a node, a tensor, a port or an attribute, changed; or bytes of the file."""
    if rng.random() < 0.2:
        return any_bytes(data, rng)
    model: Any = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice([1, 1, 2])):
        _change_message(model, rng)
    try:
        return model.SerializePartialToString()
    except (ValueError, RecursionError):
        return data


def _change_message(message: Any, rng: random.Random) -> None:
    """One field of a message, or of one inside it, changed."""
    fields = message.ListFields()
    while fields:
        field, value = rng.choice(fields)
        inner = rng.choice(list(value)) if field.is_repeated and len(value) else value
        if not isinstance(inner, Message) or rng.random() < 0.15:
            break
        message, fields = inner, inner.ListFields()
    else:
        return
    descriptor = rng.choice(list(message.DESCRIPTOR.fields)) if rng.random() < 0.2 else field
    held = getattr(message, descriptor.name)
    if descriptor.message_type is not None:
        _change_part(message, descriptor, held, rng)
        return
    odd = _odd_scalar(descriptor, rng)
    try:
        if not descriptor.is_repeated:
            setattr(message, descriptor.name, odd)
        elif len(held) and rng.random() < 0.3:
            del held[rng.randrange(len(held))]
        elif len(held) and rng.random() < 0.6:
            held[rng.randrange(len(held))] = odd
        else:
            held.append(odd)
    except (ValueError, TypeError):
        return


def _change_part(message: Any, descriptor: Any, held: Any, rng: random.Random) -> None:
    """A message inside of a message removed, doubled, moved or made empty."""
    if not descriptor.is_repeated:
        message.ClearField(descriptor.name) if rng.random() < 0.5 else held.SetInParent()
    elif not len(held):
        held.add()
    elif rng.random() < 0.4:
        del held[rng.randrange(len(held))]
    elif rng.random() < 0.5:
        held.add().CopyFrom(rng.choice(list(held)))
    else:
        first, second = (held[rng.randrange(len(held))] for _ in range(2))
        copy = type(first).FromString(first.SerializePartialToString())
        first.CopyFrom(second)
        second.CopyFrom(copy)


def _odd_scalar(descriptor: Any, rng: random.Random) -> Any:
    match descriptor.cpp_type:
        case descriptor.CPPTYPE_STRING if descriptor.type == descriptor.TYPE_BYTES:
            return rng.randbytes(rng.choice([0, 1, 8, 24, 1000]))
        case descriptor.CPPTYPE_STRING:
            operators = [
                "Loop",
                "If",
                "Scan",
                "ConstantOfShape",
                "Expand",
                "Add",
                "Reshape",
                "Cast",
                "Identity",
            ]
            return rng.choice([*TEXTS, *operators, "com.microsoft", "ai.onnx.ml"])
        case descriptor.CPPTYPE_FLOAT | descriptor.CPPTYPE_DOUBLE:
            return rng.choice([0.0, -1.0, 1e38, float("nan"), float("inf")])
        case descriptor.CPPTYPE_ENUM:
            return rng.choice(descriptor.enum_type.values).number
        case _:
            return rng.choice([*NUMBERS, -1, -2, -(2**31), -(2**63)])
