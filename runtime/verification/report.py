"""The report of `verify`: one result per check, one row per figure."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar, get_origin, get_type_hints

# Why there is no figure: the given time was up, only the quick checks were asked for, or it takes another
# processor, which leaves nothing to do here.
NOT_REACHED, NOT_YET, NOT_HERE = "not reached", "not checked yet", "not checked here"


@dataclass(frozen=True)
class Row:
    """One figure. `ok` is None where nothing limits it, or where nothing could be measured.

    budget: the largest figure that is allowed. of: how many there are, where the figure counts some of them.
    missing: why the figure isn't there, or not whole. texts: a prompt, the bundle's text after it, and the
    specification's.
    """

    name: str
    figure: float | int | str | None = None
    budget: float | None = None
    unit: str = ""
    ok: bool | None = None
    note: str = ""
    of: int | None = None
    missing: str = ""
    texts: tuple[str, ...] = ()

    @property
    def result(self) -> str:
        """The result in a word or two."""
        if self.ok is not None:
            return "ok" if self.ok else "FAILED"
        return self.missing or ("not checked" if self.figure is None else "measured")

    @property
    def used(self) -> float | None:
        """The share of the budget that the figure uses."""
        if not self.budget or not isinstance(self.figure, int | float):
            return None
        return self.figure / self.budget


def judged(name: str, figure: float, budget: float, unit: str = "", note: str = "") -> Row:
    """A row that is ok if the figure is within the budget; NaN is not."""
    return Row(name, figure, budget, unit, bool(figure <= budget), note)


def now() -> str:
    """The time as ISO 8601, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def moment(date: str) -> datetime:
    """The time that `now` stated; ValueError for another text."""
    stated = datetime.fromisoformat(date)
    if stated.tzinfo is None:
        raise ValueError(f"a date must have its zone, got {date!r:.40}")
    return stated


@dataclass(frozen=True)
class Basis:
    """What a bundle was compared with: SHA-256 of its source (and adapter), and of the text; None without."""

    source: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class CheckResult:
    """What one check found, on which basis and when; `finished` if it reached its end."""

    name: str
    rows: tuple[Row, ...]
    finished: bool = True
    basis: Basis = Basis()
    date: str = field(default_factory=now)


@dataclass(frozen=True)
class Report:
    """All results in the order of the checks, of which model, and what they ran on.

    `notes` are what a person should know of the model beside the figures.
    """

    checks: tuple[CheckResult, ...]
    seconds: float
    device: str
    seed: int
    model: str = ""
    quant: str = ""
    target: str = ""
    notes: tuple[str, ...] = ()
    date: str = field(default_factory=now)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all checks."""
        return tuple(row for check in self.checks for row in check.rows)

    @property
    def failed(self) -> list[Row]:
        """The rows that are not ok."""
        return [row for row in self.rows if row.ok is False]

    @property
    def unchecked(self) -> list[Row]:
        """The rows that couldn't be measured to their end; `missing` or the note has the reason.

        Those of other processors aren't among them.
        """
        rows = [row for row in self.rows if row.missing != NOT_HERE]
        return [row for row in rows if row.ok is None and (row.figure is None or row.missing)]

    @property
    def full(self) -> bool:
        """Whether no check was left to a later full run."""
        return all(row.missing != NOT_YET for row in self.rows)

    def check(self, name: str) -> CheckResult | None:
        """The result of the check of that name, if it ran."""
        return next((check for check in self.checks if check.name == name), None)

    def row(self, name: str) -> Row | None:
        """The row of that name, if there is one."""
        return next((row for row in self.rows if row.name == name), None)

    def to_json(self) -> dict[str, object]:
        """The report for `json.dumps`; infinities and NaN are written as strings."""
        return {
            "ok": not self.failed,
            "date": self.date,
            "model": self.model,
            "quant": self.quant,
            "target": self.target,
            "seconds": round(self.seconds, 3),
            "device": self.device,
            "seed": self.seed,
            "notes": list(self.notes),
            "checks": [
                {"name": c.name, "finished": c.finished, "date": c.date, **asdict(c.basis)}
                for c in self.checks
            ],
            "rows": [{"check": check.name, **_to_json(row)} for check in self.checks for row in check.rows],
        }

    @classmethod
    def from_json(cls, value: Any) -> Report:
        """The report that `to_json` stated; TypeError, KeyError or ValueError for anything else."""
        rows: dict[str, list[Row]] = {check["name"]: [] for check in value["checks"]}
        for row in value["rows"]:
            fields = {**row, "texts": tuple(row["texts"])}
            rows[fields.pop("check")].append(_checked(Row(**fields)))
        checks = []
        for check in value["checks"]:
            basis = _checked(Basis(check["source"], check["text"]))
            found = tuple(rows[check["name"]])
            moment(check["date"])
            checks.append(
                _checked(CheckResult(check["name"], found, check["finished"], basis, check["date"]))
            )
        names = ("seconds", "device", "seed", "model", "quant", "target", "date")
        stated = {name: value[name] for name in names}
        moment(stated["date"])
        if not 0 <= stated["seconds"] < 1e9:
            raise ValueError(f"seconds must be those of a run, got {stated['seconds']}")
        return _checked(cls(tuple(checks), notes=tuple(value["notes"]), **stated))


def _to_json(row: Row) -> dict[str, object]:
    return {name: _finite_or_text(value) for name, value in asdict(row).items()}


def _finite_or_text(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


Record = TypeVar("Record", Row, Basis, CheckResult, Report)


def _checked(record: Record) -> Record:
    """The record, if each field has its annotation's type: a certificate may come from a stranger."""
    for name, kind in get_type_hints(type(record)).items():
        value = getattr(record, name)
        items = value if isinstance(value, tuple) else ()
        wanted = tuple if get_origin(kind) is tuple else kind
        known = all(isinstance(item, (str, *RECORDS)) for item in items)
        if not (isinstance(value, wanted) and known) or (isinstance(value, int) and abs(value) > 2**53):
            raise TypeError(f"{name} must be {kind}, got {value!r:.80}")
    return record


RECORDS = (Row, CheckResult)
