"""The pictures of the pages, made from the tables that stand beside them.

PYTHONPATH=tests python -m reports.pictures    # writes those that are stale
"""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import wrap
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

ROOT = Path(__file__).parents[2]
SPEED = ROOT / "docs" / "pictures" / "speed.svg"
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


if __name__ == "__main__":
    SPEED.parent.mkdir(exist_ok=True)
    SPEED.write_text(speed((ROOT / "README.md").read_text()))
