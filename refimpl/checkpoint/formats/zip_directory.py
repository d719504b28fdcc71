r"""Find where the contents of a zip archive's entries are in the file. All entries must be stored
uncompressed.

    entries:    "PK\3\4" … u16 length of name, u16 length of extra, name, extra, then the bytes
    directory:  "PK\1\2" … for each entry: method, sizes, name, where it begins (APPNOTE.TXT 4.3.12)
    end:        "PK\6\6" … and "PK\6\7" …, the 64-bit numbers, then "PK\5\6" … and a comment

Nothing is unpacked. An entry that is compressed or encrypted, or that isn't before the directory, is an
error. Checksums aren't compared, since entries are read in parts.
"""

from __future__ import annotations

import struct

from ...errors import CheckpointError
from .cursor import Cursor
from .file_bytes import FileBytes

LARGEST_COMMENT = 65_535
ENTRY = 600  # bytes of memory that an entry takes beside its name
FULL32 = 2**32 - 1  # stands for a number that is stated in 64 bits elsewhere
_DIRECTORY = struct.Struct("<4s4x2H8x2I3H8xI")
_LOCAL = struct.Struct("<4s22x2H")
_END64 = struct.Struct("<4s20x4Q")
_LOCATOR = struct.Struct("<4s4xQ4x")
_END = struct.Struct("<4s4x2H2IH")


def stored_entries(file: FileBytes) -> dict[str, tuple[int, int]]:
    """Return for each entry of a zip archive where its content begins and ends in the file. The end is the
    position after the last byte.

    Raises CheckpointError for anything but a complete archive of uncompressed, unencrypted entries.
    """
    count, begin, end = _end_of_archive(file)
    cursor = Cursor(file, "the zip's directory", begin, end)
    entries: dict[str, tuple[int, int]] = {}
    for _ in range(count):
        name, size, at = _directory_entry(cursor)
        if name in entries:
            raise cursor.fail(f"the zip's entry {name!r:.80} occurs twice")
        entries[name] = _content(file, name, size, at, begin)
    if cursor.at != end:
        raise cursor.fail(
            f"the zip's directory of {count} entries must end at byte {end}: the file is damaged"
        )
    return entries


def _end_of_archive(file: FileBytes) -> tuple[int, int, int]:
    """Return the number of entries, and where the directory of the archive begins and ends in the file."""
    cursor = Cursor(file, "the zip's end")
    tail = max(len(file) - LARGEST_COMMENT - _END.size, 0)
    data = file.read(tail, len(file)).tobytes()
    at = data.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(data):
        raise cursor.fail("a zip must end in a directory, but it has none: the file is truncated or damaged")
    _, count, total, size, begin, comment = _END.unpack_from(data, at)
    end = tail + at
    if end + _END.size + comment != len(file) or count != total:
        raise cursor.fail(
            "a zip must be one file that ends in its directory: the file is truncated or damaged"
        )
    if end >= _LOCATOR.size + _END64.size:
        mark, at = _LOCATOR.unpack(file.read(end - _LOCATOR.size, end).tobytes())
        if mark == b"PK\6\7":
            end -= _LOCATOR.size
            if at + _END64.size > end:
                raise cursor.fail(f"the zip's directory must be before byte {end}: the file is damaged")
            mark, count, total, size, begin = _END64.unpack(file.read(at, at + _END64.size).tobytes())
            if mark != b"PK\6\6" or count != total:
                raise cursor.fail("a zip must be one file that ends in its directory: the file is damaged")
            end = at
    if begin + size != end or count * _DIRECTORY.size > size:
        raise cursor.fail(
            f"the zip's directory of {count} entries must end at byte {end}: the file is damaged"
        )
    return count, begin, end


def _directory_entry(cursor: Cursor) -> tuple[str, int, int]:
    """Read the next entry of the directory. Return its name, its size, and where it begins in the file."""
    what = "the zip's directory"
    fields = _DIRECTORY.unpack(cursor.take(_DIRECTORY.size, what))
    mark, flags, method, packed, size, name_size, extra_size, comment_size, at = fields
    if mark != b"PK\1\2":
        raise cursor.fail(f"{what} must have an entry before byte {cursor.at}: the file is damaged")
    cursor.hold(ENTRY + 5 * name_size, what)
    name = cursor.take(name_size, what).decode("utf-8", "replace")
    extra = cursor.take(extra_size, what)
    cursor.take(comment_size, what)
    if flags & 1 or method:
        raise cursor.fail(
            f"the zip's entry {name!r:.80} must be stored without compression and encryption, but it isn't"
        )
    large = _large_numbers(extra)
    sizes = [next(large, -1) if number == FULL32 else number for number in (size, packed)]
    at = next(large, -1) if at == FULL32 else at
    if sizes[0] != sizes[1] or min(*sizes, at) < 0:
        raise cursor.fail(f"the zip's entry {name!r:.80} must state its position: the file is damaged")
    return name, sizes[0], at


def _large_numbers(extra: bytes):
    """Yield the 64-bit numbers of an entry, which are in its extra field of kind 1."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<2H", extra)
        if kind == 1:
            yield from (number for (number,) in struct.iter_unpack("<Q", extra[4 : 4 + size // 8 * 8]))
        extra = extra[4 + size :]


def _content(file: FileBytes, name: str, size: int, at: int, directory: int) -> tuple[int, int]:
    """Return where an entry's content begins and ends in the file. Raises CheckpointError if it isn't before
    the directory.
    """
    what = f"{file.path}: the zip's entry {name!r:.80}"
    header = (
        file.read(at, at + _LOCAL.size).tobytes() if at + _LOCAL.size <= directory else bytes(_LOCAL.size)
    )
    mark, name_size, extra_size = _LOCAL.unpack(header)
    if mark != b"PK\3\4":
        raise CheckpointError(f"{what} must begin at byte {at}: the file is damaged")
    begin = at + _LOCAL.size + name_size + extra_size
    if begin + size > directory:
        raise CheckpointError(
            f"{what} claims {size} bytes from byte {begin} on: the file is truncated or damaged"
        )
    return begin, begin + size
