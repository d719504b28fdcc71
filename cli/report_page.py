"""The page that `tfm-cli report` writes: one HTML file without scripts, which loads no other files.

The page is built as a tree. Every text, including a model's text, is escaped when the tree is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ..runtime.verification.checks.text import AGREEMENT, KL, PERPLEXITY, REFERENCE_PERPLEXITY
from ..runtime.verification.verdict import figure, found, judgement, sentence, title, used, verdict
from .console import escape, size
from .options import with_flags

if TYPE_CHECKING:
    from ..runtime.verification.report import Report, Row

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #d9dee5; --paper: #fbfbfa;
  --card: #fff; --good: #1a7f4e; --bad: #b3261e; --bar: #3b6fb6; --pale: #e6edf7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa5b4; --line: #333b46;
  --paper: #14181d; --card: #1b2027; --good: #57c28d; --bad: #ff8a80; --bar: #7ba7e0; --pale: #24303f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p { margin: .4rem 0; } ul { margin: .4rem 0; padding-left: 1.2rem; }
.soft, figcaption { color: var(--soft); font-size: .92rem; }
.verdict { background: var(--card); border: 1px solid var(--line); border-left: 6px solid var(--good);
  border-radius: 6px; padding: .9rem 1.1rem; margin: 1.2rem 0; }
.verdict.failed { border-left-color: var(--bad); }
.verdict strong { color: var(--good); } .failed strong, .FAILED { color: var(--bad); font-weight: 600; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; } .number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
td:first-child { min-width: 11rem; } td.text { width: 33%; min-width: 13rem; overflow-wrap: anywhere;
  unicode-bidi: isolate; white-space: pre-wrap; }
mark { background: var(--pale); color: inherit; border-bottom: 2px solid var(--bar); }
summary { margin: .5rem 0; cursor: pointer; }
figure { margin: .8rem 0; }
svg { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; }
svg text { fill: var(--soft); } svg .value { fill: var(--ink); } svg .bar { fill: var(--bar); }
svg .before { fill: var(--soft); } svg .over { fill: var(--bad); } svg .axis { stroke: var(--line); }
svg .limit { stroke: var(--bad); stroke-dasharray: 5 4; } svg .limit-text { fill: var(--bad); }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # whatever stands in the page, a browser asks nobody
WIDTH, HEIGHT, LEFT, FOOT = 900, 240, 52, 34  # of the picture, and the room for its axes
CONTENT = ("files", "weights", "graphs", "source")  # checks that compute nothing
TOP = 1.15  # the share of a budget that the picture shows; larger errors are cut there


@dataclass(frozen=True)
class LayerError:
    """A layer's largest error as a share of its budget, and the part of the layer with this error."""

    layer: str
    share: float
    part: str


@dataclass(frozen=True)
class Facts:
    """Facts that the page shows in addition to the report. If a fact is a text instead of a value, the text
    says why the value is missing.

    - `sizes`: names and sizes in bytes.
    - `speed`: names and figures with their units.
    - `machine`: lines about the machine, as in the certificate.
    """

    layers: Sequence[LayerError] | str
    sizes: Sequence[tuple[str, int]]
    speed: Sequence[tuple[str, str]] | str
    machine: Sequence[str]


def page(report: Report, facts: Facts) -> bytes:
    """Return the HTML page as UTF-8 bytes."""
    head = _node(
        "head",
        _node("meta", charset="utf-8"),
        _node("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        _node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _node("title", f"{judgement(report)}: {title(report)}"),
        _node("style", STYLE),
    )
    body = _node(
        "body",
        _node("h1", title(report)),
        _node("p", "How far the exported model is from its reference implementation", {"class": "soft"}),
        _verdict(report, facts),
        *_layers(facts.layers),
        *_over_a_text(report),
        *_greedy_texts(report),
        *_sizes_and_speed(facts),
        *_all_checks(report),
        _node("h2", "Where and with what"),
        _node("ul", *(_node("li", line) for line in facts.machine)),
    )
    html = ElementTree.tostring(_node("html", head, body, lang="en"), encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{html}\n".encode("utf-8", "backslashreplace")


def _node(tag: str, *parts: Element | str | dict[str, str], **attributes: str) -> Element:
    """Build an element from texts, other elements, and mappings of attributes whose names aren't valid in
    Python.
    """
    for part in parts:
        if isinstance(part, dict):
            attributes |= part
    node = Element(tag, attributes)
    last: Element | None = None
    for part in parts:
        if isinstance(part, Element):
            node.append(part)
            last = part
        elif isinstance(part, str):
            text = escape(part, keep="\n\t")
            if last is None:
                node.text = (node.text or "") + text
            else:
                last.tail = (last.tail or "") + text
    return node


def _table(head: Sequence[str], rows: Sequence[Sequence[Element | str]]) -> Element:
    lines = [[cell if isinstance(cell, Element) else _node("td", cell) for cell in row] for row in rows]
    kinds = [cell.attrib for cell in lines[0]] if lines else [{}] * len(head)
    names = _node("tr", *(_node("th", name, kind) for name, kind in zip(head, kinds, strict=True)))
    table = _node("table", names, *(_node("tr", *cells) for cells in lines))
    return _node("div", table, {"class": "scroll"})


def _number(text: str) -> Element:
    return _node("td", text, {"class": "number"})


def _verdict(report: Report, facts: Facts) -> Element:
    first, *others = (with_flags(line) for line in verdict(report))
    others += [_where(facts.layers)] if report.failed and not isinstance(facts.layers, str) else []
    others += [f"Speed: {facts.speed}."] if isinstance(facts.speed, str) else []
    word = judgement(report)
    before, _, after = first.partition(word)
    shown = _node("p", before, _node("strong", word), after)
    return _node(
        "section",
        shown,
        *(_node("p", line) for line in others),
        {"class": "verdict failed" if report.failed else "verdict"},
    )


def _where(layers: Sequence[LayerError]) -> str:
    """Describe where the graph first differs from the specification."""
    for layer in layers:
        if not layer.share <= 1:
            return f"First divergence: {layer.part}, {_times(layer.share)} its budget; the layers are below."
    return "No part of ONNX Runtime's graph is over its budget on the golden tokens."


def _times(share: float) -> str:
    return f"{share:.0%} of" if share < 10 else f"{share:.0f} times"


def _layers(layers: Sequence[LayerError] | str) -> list[Element]:
    heading = _node("h2", "Error against budget, layer by layer")
    if isinstance(layers, str):
        return [heading, _node("p", f"Not checked: {layers}.")]
    caption = (
        "Each part of the graph gets the specification's inputs, and its largest error is compared with the "
        "largest that rounding explains. A bar is the layer's worst part; the dashed line is what is allowed."
    )
    return [heading, _node("figure", _layer_picture(layers), _node("figcaption", caption))]


def _layer_picture(layers: Sequence[LayerError]) -> Element:
    """Draw a bar for each layer's share of its budget, and the budget as a dashed line."""
    room, high = WIDTH - LEFT - 10, HEIGHT - FOOT - 10
    step = room / len(layers)

    def y(share: float) -> float:
        return 10 + high * (1 - min(share, TOP) / TOP)

    picture = _svg(HEIGHT, f"Share of its budget that each of {len(layers)} layers uses")
    for share in (0.0, 0.25, 0.5, 0.75):
        picture.append(_line(y(share), "axis"))
        picture.append(_text(f"{share:.0%}", LEFT - 6, y(share) + 4, "end"))
    label_every = max(1, round(len(layers) / 16))
    for i, layer in enumerate(layers):
        x = LEFT + i * step
        bar = _node(
            "rect",
            {"class": "bar" if layer.share <= 1 else "over"},
            _node("title", f"{layer.part}: {layer.share:.1%} of its budget"),
            x=f"{x + step * 0.12:.1f}",
            y=f"{y(layer.share):.1f}",
            width=f"{step * 0.76:.1f}",
            height=f"{max(y(0) - y(layer.share), 0.5):.1f}",
        )
        picture.append(bar)
        if i % label_every == 0:
            picture.append(_text(layer.layer, x + step / 2, HEIGHT - FOOT + 16, "middle"))
    picture.append(_line(y(1), "limit"))
    picture.append(_text("allowed", LEFT - 6, y(1) + 4, "end", "limit-text"))
    return picture


def _svg(height: float, label: str) -> Element:
    size_ = {"viewBox": f"0 0 {WIDTH} {height:g}", "role": "img", "aria-label": label}
    return _node("svg", {"xmlns": "http://www.w3.org/2000/svg", **size_})


def _line(y: float, kind: str) -> Element:
    return _node("line", {"class": kind}, x1=str(LEFT), x2=str(WIDTH - 10), y1=f"{y:.1f}", y2=f"{y:.1f}")


def _text(text: str, x: float, y: float, anchor: str, kind: str = "") -> Element:
    return _node("text", text, {"class": kind, "text-anchor": anchor}, x=f"{x:.1f}", y=f"{y:.1f}")


def _over_a_text(report: Report) -> list[Element]:
    after, before = report.row(PERPLEXITY), report.row(REFERENCE_PERPLEXITY)
    if after is not None and before is not None:
        return _perplexity(report, before, after)
    rows = [row for check in report.checks if check.name == "text" for row in check.rows]
    lines = [_node("li", sentence(row)) for row in rows if row.figure is not None]  # of an encoder
    return [_node("h2", "Outputs over a text"), _node("ul", *lines)] if lines else []


def _perplexity(report: Report, before: Row, after: Row) -> list[Element]:
    heading = _node("h2", "Perplexity before and after")
    basis = next(check.basis for check in report.checks if after in check.rows)
    over = "the checkpoint's weights" if basis.source else "the bundle's own weights: no source was given"
    bars = [
        (f"the specification over {over}", before, "before"),
        ("this bundle on ONNX Runtime", after, "bar"),
    ]
    text = "a text that no calibration saw" if basis.text is None else "the text that was given"
    numbers = [row.figure for _, row, _ in bars if isinstance(row.figure, int | float)]
    most = max(numbers, default=1) or 1
    picture = _svg(78, "Perplexity of the checkpoint and of the bundle")
    for i, (name, row, kind) in enumerate(bars):
        at = 4 + i * 38
        share = row.figure / most if isinstance(row.figure, int | float) else 1
        picture.append(_text(name, 0, at + 10, "start"))
        picture.append(
            _node("rect", {"class": kind}, x="0", y=str(at + 14), width=f"{780 * share:.1f}", height="14")
        )
        picture.append(_text(figure(row.figure), 780 * share + 8, at + 26, "start", "value"))
    lines = [
        f"{words}: {found(row)}."
        for words, row in (("KL divergence", report.row(KL)), ("Same best token", report.row(AGREEMENT)))
        if row is not None
    ]
    caption = f"On {text}: {after.note}. The nearer to the specification's, the better. " + " ".join(lines)
    return [heading, _node("figure", picture, _node("figcaption", caption))]


def _greedy_texts(report: Report) -> list[Element]:
    rows = [row for row in report.rows if len(row.texts) == 3]
    if not rows:
        return []
    cells = []
    for row in rows:
        prompt, own, specified = row.texts
        same = _shared(own, specified)
        cells.append((prompt, _marked(specified, same), _marked(own, same), _number(found(row))))
    table = _table(("PROMPT", "SPECIFICATION", "THIS BUNDLE", "SHARED"), cells)
    caption = "Each decodes on its own, so after the first other token the two texts go their own ways."
    heading = _node("h2", "What each writes after a prompt, by the likeliest tokens")
    return [heading, table, _node("p", caption, {"class": "soft"})]


def _shared(one: str, other: str) -> int:
    """Return the number of characters that two texts have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _marked(text: str, same: int) -> Element:
    return _node("td", text[:same], _node("mark", text[same:]), {"class": "text"})


def _sizes_and_speed(facts: Facts) -> list[Element]:
    rows: list[tuple[str, Element]] = [(name, _number(size(count))) for name, count in facts.sizes]
    if not isinstance(facts.speed, str):
        rows += [(name, _number(text)) for name, text in facts.speed]
    return [_node("h2", "Size and speed"), _table(("WHAT", "HOW MUCH"), rows)]


def _all_checks(report: Report) -> list[Element]:
    def cells(row: Row) -> Sequence[Element | str]:
        note = _node("td", with_flags(row.note), {"class": "soft"})
        found_here, most = _number(found(row)), _number(figure(row.budget, row.unit))
        result = _node("td", row.result, {"class": row.result})
        return row.name, found_here, most, _number(used(row)), result, note

    head, parts = ("CHECK", "FOUND", "AT MOST", "USED", "RESULT", ""), [_node("h2", "All figures")]
    paths: dict[str, list[Row]] = {}
    for check in report.checks:
        for row in check.rows:
            paths.setdefault(_path(check.name, row), []).append(row)
    for path, rows in paths.items():
        failed = sum(row.ok is False for row in rows)
        told = f"{path}: {len(rows)} figures, " + (f"{failed} FAILED" if failed else "none over its limit")
        opened = {"open": ""} if failed else {}
        parts.append(_node("details", opened, _node("summary", told), _table(head, [cells(r) for r in rows])))
    return parts


def _path(check: str, row: Row) -> str:
    """Return what a figure belongs to: the bundle's files, or the code path that computed the figure."""
    if check in CONTENT:
        return "Files, weights, graphs"
    return row.name.split(": ")[0] if row.name.startswith("kernels") else "ONNX Runtime's operators"
