"""Run the beam searches of one request, one after the other. No other request uses the engine during a
search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...refimpl.decoding.beam import beam_steps
from ...refimpl.engine.protocol import Engine
from ..tasks.continuous_batching import Outcome, outcome
from ..tasks.options import Options
from .worker import Job, Part, TextRequest


def search_job(engine: Engine, requests: Sequence[TextRequest], options: Options) -> Job:
    """Return a job that runs the beam searches of one request's texts, one after the other.

    A cancelled text ends at the next step. An error ends all texts of the request.
    """
    steps = _searched(engine, requests, options)

    def fail(error: BaseException) -> None:
        for request in requests:
            if not (request.ended or request.cancelled):
                request.emit(Part(error=error))

    def step() -> bool:
        for request in requests:
            if request.cancelled:
                request.sequence.finish()
        try:
            made = next(steps)
        except StopIteration:
            return False
        except BaseException as error:
            fail(error)
            return False
        if made is not None:
            made.row.tell(made)
        return True

    return Job(step, fail)


def _searched(
    engine: Engine, requests: Sequence[TextRequest], options: Options
) -> Iterator[Outcome[TextRequest] | None]:
    """Yield None for each step of a search, and at the end of a search the outcomes of its best text."""
    for request in requests:
        sequence = request.sequence
        search = options.search(sequence.prompt, sequence.stop_ids, sequence.encoder_ids)
        for _ in beam_steps(engine, search):
            yield None
            if request.ended:
                break
        else:
            best = search.hypotheses[0]
            for token in best.tokens:
                sequence.tokens.append(token)
                yield outcome(request, token)
                if request.ended:
                    break
            else:
                sequence.finish(best.finish_reason)
                yield outcome(request, None)
