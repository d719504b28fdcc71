"""Parse bodies of HTML forms that contain a file: multipart/form-data (RFC 7578). The parser reads a whole
body at once, and the caller limits the body's size.

    --BOUNDARY⏎ Content-Disposition: form-data; name="model"⏎ ⏎ whisper⏎ --BOUNDARY⏎ … ⏎--BOUNDARY--

The parser cuts a body at its boundaries, so it doesn't parse the content of a file. It reads only the
header Content-Disposition, in the form that RFC 7578 allows. The standard library's `email` reads more
headers, and can take seconds for a hostile header. A field with a name that ends in [] is a list.
"""

from __future__ import annotations

import re

from .errors import RequestError

MOST_FIELDS, HEADER_BYTES = 64, 4096
Form = dict[str, str | bytes | list[str]]

QUOTED = r'"(?:[^"\\\r\n]|\\.)*"'
BOUNDARY = re.compile(
    r'multipart/form-data\s*;.*?\bboundary=(?:"([^"]{1,70})"|([^\s";,]{1,70}))(?:\s*;.*)?', re.I
)
DISPOSITION = re.compile(
    rf'^content-disposition:\s*form-data((?:\s*;\s*[a-z]+\*?=(?:{QUOTED}|[^\s";]+))+)\s*$'.encode(),
    re.I | re.M,
)
PARAMETER = re.compile(rf'([a-z]+)\*?=({QUOTED}|[^\s";]+)'.encode(), re.I)


def boundary_of(content_type: str) -> bytes:
    """Return the boundary between a form's parts, which the Content-Type header states. Raises RequestError
    if the content type isn't multipart/form-data.
    """
    found = BOUNDARY.fullmatch(content_type)
    if found is None:
        raise RequestError(
            f"the content-type must be multipart/form-data with a boundary, got {content_type!r:.80}",
            status=415,
        )
    return (found[1] or found[2]).encode("latin-1", "replace")


def parse_form(body: bytes, boundary: bytes) -> Form:
    """Return the form's fields by name. The value of a file is bytes, and all other values are texts. Raises
    RequestError if the body isn't a form.
    """
    first, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary, MOST_FIELDS + 1)
    last = parts.pop() if parts else b""
    if first or not parts or not last.startswith(b"--"):
        raise RequestError(
            f"the body must be a form of 1 to {MOST_FIELDS} fields, each after a boundary, and end with "
            "the boundary"
        )
    form: Form = {}
    for part in parts:
        name, is_file, content = _field(part)
        value: str | bytes = content
        if not is_file:
            value = _text(content, name)
        key = name.removesuffix("[]")
        if name == key and key not in form:
            form[key] = value
        elif name != key and isinstance(listed := form.setdefault(key, []), list) and isinstance(value, str):
            listed.append(value)
        else:
            raise RequestError(
                f"{key:.40}: the form may have this field only once, but it occurs twice", param=key
            )
    return form


def _field(part: bytes) -> tuple[str, bool, bytes]:
    """Return a field's name, whether the field is a file, and its content."""
    end = part.find(b"\r\n\r\n", 0, HEADER_BYTES)
    told = DISPOSITION.search(part[:end].replace(b"\r\n", b"\n")) if end >= 0 else None
    named = {} if told is None else {key.lower(): value for key, value in PARAMETER.findall(told[1])}
    if not part.startswith(b"\r\n") or not (name := named.get(b"name", b"").strip(b'"')):
        raise RequestError(
            "each field of a form must have a Content-Disposition of form-data with a name, in headers of "
            f"at most {HEADER_BYTES} bytes"
        )
    return _text(name, "name"), b"filename" in named, part[end + 4 :]


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise RequestError(f"{name:.40}: the text must be UTF-8", param=name) from None
