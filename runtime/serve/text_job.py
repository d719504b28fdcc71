"""The texts of one request to a model with an encoder and a decoder.

What the encoder read is one array, whose rows can't join and leave: the texts of a request are generated
together, and those of the next request after them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...refimpl.decoding.beam import beam_steps
from ...refimpl.engine.protocol import Engine
from ..tasks.continuous_batching import run
from ..tasks.options import Options
from .batch import Outcome
from .worker import Job, Part, TextRequest

Steps = Iterator[Outcome | None]  # None where a step gave no token yet


def text_job(engine: Engine, requests: Sequence[TextRequest], options: Options, slots: int) -> Job:
    """The job that generates the texts of one request, `slots` at a time, or with beams one by one.

    A text that is cancelled leaves at the next step. An error ends all of them.
    """
    by_sequence = {id(request.sequence): request for request in requests}
    steps = _searched(engine, requests, options) if options.beams else _sampled(engine, requests, slots)

    def fail(error: BaseException) -> None:
        for request in requests:
            if request.sequence.finish_reason is None and not request.cancelled:
                request.emit(Part(error=error))

    def step() -> bool:
        for request in requests:
            if request.cancelled:
                request.sequence.finish()
        try:
            outcome = next(steps)
        except StopIteration:
            return False
        except BaseException as error:
            fail(error)
            return False
        if outcome is not None:
            request = by_sequence[id(outcome.sequence)]
            part = request.part(outcome)
            if not request.cancelled:
                request.emit(part)
        return True

    return Job(step, fail)


def _sampled(engine: Engine, requests: Sequence[TextRequest], slots: int) -> Steps:
    for sequence, token in run(engine, [request.sequence for request in requests], slots):
        yield Outcome(sequence, token)


def _searched(engine: Engine, requests: Sequence[TextRequest], options: Options) -> Steps:
    """The best text of each search, which comes at its end."""
    for request in requests:
        sequence = request.sequence
        search = options.search(sequence.prompt, sequence.stop_ids, sequence.encoder_ids)
        for _ in beam_steps(engine, search):
            yield None
            if sequence.finish_reason is not None:
                break
        else:
            best = search.hypotheses[0]
            for token in best.tokens:
                sequence.tokens.append(token)
                yield Outcome(sequence, token)
                if sequence.finish_reason is not None:
                    break
            else:
                sequence.finish(best.finish_reason)
                yield Outcome(sequence, None)
