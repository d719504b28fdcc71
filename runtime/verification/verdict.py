"""Put a report into words for the user: figures with their units, and the verdict."""

from __future__ import annotations

from datetime import timedelta

from .checks.backends import KL as BACKEND_KL
from .checks.bits import EQUAL
from .checks.logits import COSINE
from .checks.text import AGREEMENT, KL, PERPLEXITY, REFERENCE_PERPLEXITY
from .report import NOT_REACHED, NOT_YET, Report, Row, moment

NEAR = 0.99  # cosine of embeddings that rank texts almost alike; MiniLM-L6 has 0.999 in int8, 0.963 in int4
MUCH = 0.1  # nats a token: Gemma 3 270M in int4 has 0.46, SmolLM2 in int8 0.003
STORED = "the outputs of the checkpoint's weights as they are stored"
NAMED = 4  # as many failed rows are told one by one


def figure(value: float | int | str | None, unit: str = "") -> str:
    """Return a figure with its unit as text; shares are percentages."""
    if value is None:
        return ""
    if unit.startswith("of ") and isinstance(value, float):
        return f"{value:.1%} {unit}"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{text} {unit}".strip()


def found(row: Row) -> str:
    """Return a row's result as text, such as "31 of 32 tokens" or "0.12 logits"."""
    return figure(row.figure, row.unit if row.of is None else f"of {row.of} {row.unit}")


def used(row: Row) -> str:
    """Return as text how much of its budget a row's figure uses: a percentage, or from 10 on the number of
    times.
    """
    return "" if row.used is None else f"{row.used:.0%}" if row.used < 10 else f"{row.used:.0f} times"


def sentence(row: Row) -> str:
    """Return a row as a part of a sentence: the name, the figure, and the largest allowed figure."""
    text = f"{row.name}: {found(row) or row.note}"
    if row.budget is not None:
        text += f", of at most {figure(row.budget, row.unit)}"
        text += f" ({used(row)})" if row.used is not None else ""
    return f"{text} ({row.note})" if row.note and row.figure is not None else text


def day(date: str) -> str:
    """Return an ISO 8601 date as text, such as "26 November 2026"."""
    return f"{moment(date).day} {moment(date):%B %Y}"


def verdict(report: Report) -> list[str]:
    """Return the verdict as a list of sentences: whether the bundle passed, how near it is to the limits,
    what quantization costs, and what wasn't checked.
    """
    return [
        _judgement(report),
        *_details(report),
        *_open(report),
        *(f"Note: {note}." for note in report.notes),
    ]


def title(report: Report) -> str:
    """Return a text with the model that was verified, its quantization and its target."""
    return f"{report.model} in {report.quant} for {report.target}"


def judgement(report: Report) -> str:
    """Return PASSED or FAILED and, for PASSED, in a few words which checks passed."""
    if report.failed:
        return "FAILED"
    if any(row.missing == NOT_REACHED for row in report.rows):
        return "PASSED the checks that were reached"
    if not report.full:
        return "PASSED the quick checks"
    return "PASSED all checks that could run" if report.unchecked else "PASSED all checks"


def summary(report: Report | None) -> str:
    """Return a line that says what a certificate found.

    A report of None means that the bundle has no certificate, or one that isn't about this bundle.
    """
    if report is None:
        return "no"
    later = [row.name for row in report.rows if row.missing == NOT_YET]
    open_checks = f"; not checked yet: {', '.join(later)}" if later else ""
    equal = f"; {EQUAL} {bits}" if (bits := to_the_bit(report)) else ""
    return f"{day(report.date)}: {judgement(report)}{equal}{open_checks}"


def _judgement(report: Report) -> str:
    model = title(report) if report.model else "The bundle"
    means = (
        "It doesn't compute what the specification says; don't use it"
        if report.failed
        else "These checks found no difference from the specification beyond rounding"
    )
    return f"{model}, {day(report.date)}: {judgement(report)}. {means}."


def _details(report: Report) -> list[str]:
    lines = [f"Failed: {sentence(row)}." for row in report.failed[:NAMED]]
    if (more := len(report.failed) - NAMED) > 0:
        lines.append(f"Failed: {more} more figures.")
    if equal := to_the_bit(report):
        lines.append(f"{EQUAL.capitalize()} {equal}.")
    if (row := nearest(report)) is not None and not report.failed:
        limit = figure(row.budget, row.unit)
        lines.append(
            f"Nearest to its limit: {row.name}, {found(row)} of the {limit} that are allowed ({used(row)})."
        )
    for cost in filter(None, (vector_cost(report), prediction_cost(report))):
        lines.append(f"On the golden tokens {cost}.")
    if cost := text_cost(report):
        lines.append(f"Over a text: {cost}.")
    return lines + _earlier(report)


def _earlier(report: Report) -> list[str]:
    """Return sentences with the dates and figures that this run took from an earlier run's certificate."""
    begin = moment(report.date) - timedelta(seconds=report.seconds + 1)
    earlier = [check for check in report.checks if check.finished and moment(check.date) < begin]
    names: dict[str, list[str]] = {}
    for check in earlier:
        names.setdefault(day(check.date), []).extend(r.name for r in check.rows[:1] if r.figure is not None)
    return [f"Found by an earlier run, {date}: {'; '.join(these)}." for date, these in names.items() if these]


def nearest(report: Report) -> Row | None:
    """Return the row that uses the largest share of its budget. Return None if no row has a budget."""
    rows = [row for row in report.rows if row.used is not None]
    return max(rows, key=lambda row: row.used or 0, default=None)


def to_the_bit(report: Report) -> str:
    """Return a text that says over how many tokens logits have the specification's bits, and on which
    backends. The text is empty if no backend's logits have these bits.
    """
    rows = [row for row in report.rows if EQUAL in row.name and row.ok]
    paths = dict.fromkeys(row.name.partition(": ")[0] for row in rows)
    return f"over {max(row.of or 0 for row in rows)} tokens: {', '.join(paths)}" if rows else ""


def vector_cost(report: Report) -> str:
    """Return a text that says how near the embeddings are to the embeddings with the checkpoint's weights.
    The text is empty if this wasn't measured.

    The checkpoint's weights may have few bits themselves, so the text doesn't call them unquantized.
    """
    if (row := report.row(COSINE)) is None or not isinstance(row.figure, float):
        return ""
    hint = "; int8 stays nearer" if row.figure < NEAR else ""
    return f"the embeddings' mean cosine with {STORED} is {row.figure:.3f}{hint}"


def prediction_cost(report: Report) -> str:
    """Return a text that says how far predictions on the golden tokens are from the predictions with the
    checkpoint's weights.

    The figure comes from the worst backend that ran. The text is empty if no backend's predictions differ.
    """
    rows = [row for row in report.rows if row.name.endswith(BACKEND_KL)]
    kl = max((row.figure for row in rows if isinstance(row.figure, float)), default=0.0)
    if kl == 0:
        return ""
    hint = "; keep and int8 lose less" if kl > MUCH and report.quant == "int4" else ""
    return f"predictions are up to {figure(kl, 'nats a token')} from {STORED}{hint}"


def text_cost(report: Report) -> str:
    """Return a text with the perplexity, KL divergence and agreement over a text, as far as they were
    measured.
    """
    parts = []
    if (row := report.row(PERPLEXITY)) is not None and row.figure is not None:
        reference = report.row(REFERENCE_PERPLEXITY)
        than = "" if reference is None else f" (the specification's is {figure(reference.figure)})"
        parts.append(f"perplexity {figure(row.figure)}{than}")
    if (row := report.row(KL)) is not None and row.figure is not None:
        parts.append(f"KL divergence {found(row)}")
    if (row := report.row(AGREEMENT)) is not None and row.figure is not None:
        parts.append(f"the same best token at {found(row)}")
    return ", ".join(parts)


def _open(report: Report) -> list[str]:
    """Return a list with one sentence that says what wasn't checked and why. The list is empty if everything
    was checked.
    """
    names: dict[str, list[str]] = {}
    for row in report.unchecked:
        why = f"{row.missing} {row.note}".strip() if row.missing == NOT_REACHED else row.note or row.missing
        names.setdefault(why, []).append(row.name)
    parts = [", ".join(these) + (f" ({why})" if why else "") for why, these in names.items()]
    return [f"Not checked: {'; '.join(parts)}."] if parts else []
