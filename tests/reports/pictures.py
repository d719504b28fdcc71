"""The pictures of the pages, made from what stands beside them: tables, and a recording of a terminal.

PYTHONPATH=tests python -m reports.pictures             # writes those that are stale
PYTHONPATH=tests python -m reports.pictures --record    # first runs README's command, and records it
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from textwrap import wrap
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SPEED = ROOT / "docs" / "pictures" / "speed.svg"
RECORDED, RECORDING = SPEED.with_name("first_text.cast"), SPEED.with_name("first_text.svg")
COLUMNS, LINE, LETTER = 84, 19, 7.8  # of the picture of a terminal: letters, and pixels
WIDTH, LEFT, ROW, TOP, BAR = 760, 330, 46, 64, 15
# Colours that can be told apart on white and on black, and without seeing red and green.
INK, COLOURS = "#6b7686", {"prompts are read": "#3b6fb6", "texts are written": "#c98a1b"}


def speed(readme: str) -> str:
    """Bars of README's table of speed, in SVG: how many times as fast as llama.cpp."""
    table = readme.split("## Speed\n")[1].split("\n## ")[0]
    rows = [
        (name.replace("`", ""), [float(cell) if cell.strip() else None for cell in cells])
        for name, *cells in re.findall(r"^\| (.+?) \| ?([\d.]*) ?\| ?([\d.]*) ?\|$", table, re.M)
        if any(cells) and "prefill" not in cells
    ]
    longest = max(value for _, values in rows for value in values if value is not None)
    scale = (WIDTH - LEFT - 60) / longest
    height = TOP + ROW * len(rows) + 10
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {height}"})
    svg.set("font-family", "system-ui, sans-serif")
    svg.set("font-size", "13")
    SubElement(svg, "title").text = "How many times as fast as llama.cpp, SmolLM2 135M, two threads"
    _text(svg, 0, 18, "How many times as fast as llama.cpp: SmolLM2 135M, two threads", size="16")
    for i, (label, colour) in enumerate(COLOURS.items()):
        _bar(svg, LEFT + 160 * i, 32, 12, 12, colour)
        _text(svg, LEFT + 160 * i + 18, 43, label)
    for i, (name, values) in enumerate(rows):
        y = TOP + ROW * i
        lines = wrap(name, 46)
        for k, line in enumerate(lines):
            _text(svg, LEFT - 12, y + BAR + 5 + 16 * k - 8 * (len(lines) - 1), line, anchor="end")
        for k, (value, colour) in enumerate(zip(values, COLOURS.values(), strict=True)):
            if value is not None:
                _bar(svg, LEFT, y + k * (BAR + 2), round(value * scale), BAR, colour)
                _text(svg, LEFT + round(value * scale) + 6, y + k * (BAR + 2) + 12, f"{value:g}")
    x = LEFT + round(scale)
    one = {"x1": f"{x}", "x2": f"{x}", "y1": f"{TOP - 6}", "y2": f"{height - 8}", "stroke": INK}
    SubElement(svg, "line", {**one, "stroke-dasharray": "4 4"})
    ElementTree.indent(svg)
    return ElementTree.tostring(svg, encoding="unicode") + "\n"


def _bar(svg: Element, x: int, y: int, width: int, height: int, colour: str) -> None:
    sizes = {"x": x, "y": y, "width": width, "height": height, "rx": 2}
    SubElement(svg, "rect", {name: str(value) for name, value in sizes.items()} | {"fill": colour})


def _text(svg: Element, x: int, y: int, text: str, size: str = "13", anchor: str = "start") -> None:
    place = {"x": str(x), "y": str(y), "fill": INK, "font-size": size, "text-anchor": anchor}
    SubElement(svg, "text", place).text = text


def command(readme: str) -> str:
    """The command with which README runs a real model."""
    return re.findall(r"^    pip install '[^']+' && (tfm-cli .+)$", readme, re.M)[0]


def record(line: str) -> str:
    """What a command writes to stdout, and when, as asciinema's recordings have it (version 2)."""
    begin, events = time.monotonic(), []
    with subprocess.Popen(
        [sys.executable, "-m", "tfm.cli", *shlex.split(line)[1:]], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        while chunk := os.read(child.stdout.fileno(), 65536):
            events.append([round(time.monotonic() - begin, 2), "o", chunk.decode()])
    assert child.returncode == 0
    header = {"version": 2, "width": COLUMNS, "height": 24, "command": line}
    return "".join(json.dumps(row) + "\n" for row in (header, *events))


def recording(cast: str) -> str:
    """A terminal in SVG: a recorded text appears as fast as it did, and without animations it is whole."""
    header, *events = map(json.loads, cast.splitlines())
    text, times = "".join(text for *_, text in events), [at for at, _, text in events for _ in text]
    lines: list[list[tuple[float, str]]] = [[]]
    for word in re.finditer(r"\n|[^\S\n]*\S+", text):
        if word[0] == "\n" or sum(len(told) for _, told in lines[-1]) + len(word[0]) > COLUMNS:
            lines.append([])
        if word[0] != "\n":
            lines[-1].append((times[word.end() - 1], word[0] if lines[-1] else word[0].lstrip()))
    width, height = round(COLUMNS * LETTER) + 40, LINE * (len(lines) + 1) + 56
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}"})
    svg.set("font-family", "ui-monospace, Menlo, Consolas, monospace")
    svg.set("font-size", "13")
    SubElement(svg, "title").text = f"What {header['command']} writes, as fast as it did on two cores"
    SubElement(svg, "rect", {"width": str(width), "height": str(height), "rx": "8", "fill": "#1b1f27"})
    for i, colour in enumerate(("#e06c5f", "#d9a942", "#6fae5b")):
        SubElement(svg, "circle", {"cx": str(20 + 18 * i), "cy": "18", "r": "5", "fill": colour})
    _terminal_line(svg, 50, "#8ab4f8", [(0.0, f"$ {header['command']}")])
    for i, parts in enumerate(lines, 1):
        _terminal_line(svg, 50 + LINE * i, "#e6e6e6", parts)
    ElementTree.indent(svg, space="")
    return ElementTree.tostring(svg, encoding="unicode") + "\n"


def _terminal_line(svg: Element, y: int, colour: str, parts: list[tuple[float, str]]) -> None:
    line = SubElement(svg, "g", {"fill": colour})
    column = 0
    for at, text in parts:
        word = text.lstrip()
        x = 20 + (column + len(text) - len(word)) * LETTER
        place = {"x": f"{x:g}", "y": str(y), "textLength": f"{len(word) * LETTER:g}"}
        shown = SubElement(line, "text", place)
        shown.text = word
        if at:
            hidden = {"attributeName": "visibility", "to": "hidden", "begin": "0s", "dur": f"{at}s"}
            SubElement(shown, "set", hidden)
        column += len(text)


if __name__ == "__main__":
    SPEED.parent.mkdir(exist_ok=True)
    if "--record" in sys.argv:
        RECORDED.write_text(record(command(README.read_text())))
    SPEED.write_text(speed(README.read_text()))
    RECORDING.write_text(recording(RECORDED.read_text()))
