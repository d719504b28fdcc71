"""End a model's thoughts after a given number of tokens, with the marks of the model's format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...refimpl.decoding.constraint import Constraint
from .call_formats import Thoughts
from .chat_template import common_prefix
from .tokenizer import Tokenizer


class State(NamedTuple):
    """The state of an answer after some of its tokens.

    The state says whether the answer is within thoughts (`thinks`), how many tokens the thoughts have
    (`used`), which token of the ending marks must come next, if any (`forced`), and at which token the
    current part of the answer began (`since`).
    """

    thinks: bool
    used: int = 0
    forced: int | None = None
    since: int = 0


class ThoughtBudget:
    """A constraint (`refimpl.decoding.constraint.Constraint`) that allows at most `budget` tokens of thoughts
    and then forces the marks that end them.

    Outside of thoughts, the constraint `inner` applies. If thoughts begin again after the budget is used up,
    the new thoughts are ended immediately.
    """

    def __init__(
        self,
        budget: int,
        thoughts: Thoughts,
        tokenizer: Tokenizer,
        shown: frozenset[int],
        inner: Constraint | None = None,
        *,
        thinking: bool = False,
    ) -> None:
        """Prepare the constraint for one answer.

        `shown` are the special tokens in the marks. `thinking` says that the prompt ends within thoughts."""
        self._budget, self._inner, self._tokenizer, self._shown = budget, inner, tokenizer, shown
        self._begin, self._end, self._anywhere = (
            thoughts.begin.strip(),
            thoughts.end.strip(),
            thoughts.anywhere,
        )
        self._ending = tokenizer.encode_template(f"{thoughts.end}{thoughts.then}")
        # A mark has no more tokens than bytes.
        self._window = 1 + max(len(mark.encode()) for mark in (self._begin, self._end))
        self._tokens: list[int] = []
        # Before each of the tokens, and after the last one.
        self._states = [self._ended(State(thinks=thinking))]

    def allowed(self, tokens: Sequence[int]) -> np.ndarray:
        forced = self._state(tokens).forced
        if forced is None and self._inner is not None:
            return self._inner.allowed(tokens)
        mask = np.full(self._tokenizer.vocabulary, forced is None)
        if forced is not None:
            mask[self._ending[forced]] = True
        return mask

    def is_complete(self, tokens: Sequence[int]) -> bool:
        return self._inner is not None and self._inner.is_complete(tokens)

    def _state(self, tokens: Sequence[int]) -> State:
        """Return the state after these tokens. States of tokens that were taken back, as in a rejected draft,
        are removed.
        """
        same = common_prefix(self._tokens, tokens)
        del self._tokens[same:], self._states[same + 1 :]
        for token in tokens[same:]:
            self._tokens.append(token)
            self._states.append(self._ended(self._next(self._states[-1])))
        return self._states[-1]

    def _next(self, state: State) -> State:
        """Return the state after the token that was added last, given the state before it."""
        count = len(self._tokens)
        if state.forced is not None:
            more = state.forced + 1 < len(self._ending)
            return State(False, state.used, state.forced + 1 if more else None, count)
        mark = self._end if state.thinks else self._begin
        if state.thinks:
            state = state._replace(used=state.used + 1)
        elif not self._anywhere and (state.since or count > self._window):
            return state
        text = self._tokenizer.decode(self._tokens[max(state.since, count - self._window) :], self._shown)
        found = mark in text if state.thinks or self._anywhere else text.lstrip().startswith(mark)
        return state._replace(thinks=not state.thinks, since=count) if found else state

    def _ended(self, state: State) -> State:
        """Return the state. If the budget is used up, the state forces the next token of the ending marks."""
        if not state.thinks or state.used < self._budget:
            return state
        longest = min(len(self._ending), len(self._tokens) - state.since + 1)
        there = (
            k for k in reversed(range(longest)) if self._tokens[len(self._tokens) - k :] == self._ending[:k]
        )
        return state._replace(forced=next(there))
