"""Define the report of `verify`, which has one result for each check and one row for each figure."""

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
    """One figure of a check. `ok` is None if the figure has no limit, or if it couldn't be measured.

    - budget: the largest allowed figure.
    - of: the total number, if the figure is a count out of a total.
    - missing: the reason why the figure is missing or incomplete.
    - texts: a prompt, the bundle's text after it, and the specification's text after it.
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
        """The result of the row in a word or two: ok, FAILED, measured, or why there is no result."""
        if self.ok is not None:
            return "ok" if self.ok else "FAILED"
        return self.missing or ("not checked" if self.figure is None else "measured")

    @property
    def used(self) -> float | None:
        """The figure divided by its budget. None for a row without a budget or a number."""
        if not self.budget or not isinstance(self.figure, int | float):
            return None
        return self.figure / self.budget


def judged(name: str, figure: float, budget: float, unit: str = "", note: str = "") -> Row:
    """Return a row that is ok if the figure is within the budget. NaN is never within the budget."""
    return Row(name, figure, budget, unit, bool(figure <= budget), note)


def now() -> str:
    """Return the current time as ISO 8601, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def moment(date: str) -> datetime:
    """Return the time that an ISO 8601 text states, such as the texts that `now` returns.

    Raises ValueError for any other text, and for a time without a time zone.
    """
    stated = datetime.fromisoformat(date)
    if stated.tzinfo is None:
        raise ValueError(f"a date must have a time zone, got {date!r:.40}")
    return stated


@dataclass(frozen=True)
class Basis:
    """The data that a bundle was compared with. `source` is the SHA-256 of the source (and adapter), and
    `text` is the SHA-256 of the text.

    A hash is None if the bundle wasn't compared with a source or text.
    """

    source: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class CheckResult:
    """The result of one check, with the data that the bundle was compared with (`basis`) and the date.
    `finished` says whether the check reached its end.
    """

    name: str
    rows: tuple[Row, ...]
    finished: bool = True
    basis: Basis = Basis()
    date: str = field(default_factory=now)


@dataclass(frozen=True)
class Report:
    """The results of all checks in order, with the model that was checked and the device of the checks.

    `notes` are further facts about the model that the user should know.
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
        """The rows that failed their check."""
        return [row for row in self.rows if row.ok is False]

    @property
    def unchecked(self) -> list[Row]:
        """The rows that couldn't be measured completely. A row's `missing` or `note` gives the reason.

        Rows that are for other processors are left out.
        """
        rows = [row for row in self.rows if row.missing != NOT_HERE]
        return [row for row in rows if row.ok is None and (row.figure is None or row.missing)]

    @property
    def full(self) -> bool:
        """Whether no check was left to a later full run."""
        return all(row.missing != NOT_YET for row in self.rows)

    def check(self, name: str) -> CheckResult | None:
        """Return the result of the check with this name. Return None if the report has no such check."""
        return next((check for check in self.checks if check.name == name), None)

    def row(self, name: str) -> Row | None:
        """Return the row with this name. Return None if the report has no such row."""
        return next((row for row in self.rows if row.name == name), None)

    def to_json(self) -> dict[str, object]:
        """Return the report as a value for `json.dumps`. Infinities and NaN become texts."""
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
        """Return the report from which `to_json` made this value. Raises TypeError, KeyError or ValueError
        for any other value.
        """
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
            raise ValueError(f"seconds must be finite and at least 0, got {stated['seconds']}")
        return _checked(cls(tuple(checks), notes=tuple(value["notes"]), **stated))


def _to_json(row: Row) -> dict[str, object]:
    return {name: _finite_or_text(value) for name, value in asdict(row).items()}


def _finite_or_text(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


Record = TypeVar("Record", Row, Basis, CheckResult, Report)


def _checked(record: Record) -> Record:
    """Return the record. Raises TypeError if a field hasn't its annotation's type, since a certificate may
    come from a stranger.
    """
    for name, kind in get_type_hints(type(record)).items():
        value = getattr(record, name)
        items = value if isinstance(value, tuple) else ()
        wanted = tuple if get_origin(kind) is tuple else kind
        known = all(isinstance(item, (str, *RECORDS)) for item in items)
        if not (isinstance(value, wanted) and known) or (isinstance(value, int) and abs(value) > 2**53):
            raise TypeError(f"{name} must be {kind}, got {value!r:.80}")
    return record


RECORDS = (Row, CheckResult)
