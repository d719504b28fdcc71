"""Languages whose compilation, or steps, take time that grows exponentially with their length."""

from __future__ import annotations

import json
import random

ATOMS = (
    "(.*a.{%d})",
    "(a|b)*c.{%d}",
    "((.*a.{%d})|x.*)",
    ".*(foo|bar).*[0-9]{%d}",
    "((a|aa)+){%d}",
    "(.{%d})*",
)


def _string(pattern: str) -> dict[str, str]:
    return {"type": "string", "pattern": f"^({pattern})$"}


WIDE = "json_schema", json.dumps({"allOf": [_string(ATOMS[0] % i) for i in range(30)]})
# It is compiled at once; what may follow twelve digits takes time.
STEPS = "json_schema", json.dumps({"allOf": [_string(f"x*|[0-9]{{12}}{ATOMS[0] % i}") for i in range(30)]})


def drawn(rng: random.Random) -> tuple[str, str]:
    """The kind and the text of a language: half of them are intersections, the worst of what is known."""
    first = rng.randint(0, 5)
    several = [rng.choice(ATOMS) % i for i in range(first, first + rng.randint(16, 30))]
    similar = [ATOMS[0] % i for i in range(first, first + rng.randint(20, 30))]
    match rng.randrange(8):
        case 0 | 1:
            return "json_schema", json.dumps({"allOf": [_string(one) for one in similar]})
        case 2:
            return "json_schema", json.dumps({"allOf": [_string(f"x*|[0-9]{{3}}{one}") for one in similar]})
        case 3:
            return "grammar", "start: A\nA: " + " & ".join(f"/{one}/" for one in similar)
        case 4:
            return "grammar", "start: A\nA: /(?s:.*)/" + "".join(f" & ~/{one}/" for one in several)
        case 5:
            properties = {f"^{one}$": {"type": "integer"} for one in several}
            return "json_schema", json.dumps({"type": "object", "patternProperties": properties})
        case 6:
            return "regex", "".join(f"({one}){{0,{rng.randint(1, 9)}}}" for one in several[:8])
        case _:
            repeated = f"root{{0,{rng.randint(9, 30)}}}"
            return (
                "grammar",
                f'root ::= [a-z]{{{rng.randint(1, 9)}}} {repeated} | {repeated} {repeated} | "a"',
            )
