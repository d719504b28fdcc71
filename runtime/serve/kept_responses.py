"""Keep the latest answers of `/v1/responses` in memory, so that later requests can continue their
conversations.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any, NamedTuple

from ..serving_defaults import RESPONSE_BYTES
from .errors import RequestError


class Kept(NamedTuple):
    """A stored answer with its owner, the conversation's items before the answer, and the size of all that in
    bytes.
    """

    owner: str
    response: dict[str, Any]
    before: list[dict[str, Any]]
    nbytes: int


class KeptResponses:
    """The latest answers that fit into `limit` bytes of JSON. Only the owner of an answer can find it."""

    def __init__(self, limit: int = RESPONSE_BYTES) -> None:
        self.limit, self._nbytes = limit, 0
        self._kept: OrderedDict[str, Kept] = OrderedDict()  # the latest used one last

    def keep(self, owner: str, response: dict[str, Any], before: list[dict[str, Any]]) -> None:
        """Store an answer with the conversation's items `before` it. If there is no room, drop the least
        recently used answers.
        """
        kept = Kept(owner, response, before, len(json.dumps([response, before], ensure_ascii=False).encode()))
        self._kept[response["id"]] = kept
        self._nbytes += kept.nbytes
        while self._nbytes > self.limit:
            _, oldest = self._kept.popitem(last=False)
            self._nbytes -= oldest.nbytes

    def response(self, owner: str, id: str) -> dict[str, Any]:
        """Return the stored answer with this id. Raises RequestError 404 if this owner has no such answer."""
        return self._find(owner, id).response

    def conversation(self, owner: str, id: str) -> list[dict[str, Any]]:
        """Return all items of a conversation up to the end of the answer with this id. Raises RequestError
        404 if this owner has no such answer.
        """
        kept = self._find(owner, id)
        return [*kept.before, *kept.response["output"]]

    def item(self, owner: str, id: str) -> dict[str, Any]:
        """Return the item with this id from a stored answer. Raises RequestError 404 if this owner has no
        such item.
        """
        for kept in reversed(self._kept.values()):
            if kept.owner == owner:
                for item in kept.response["output"]:
                    if item["id"] == id:
                        return item
        raise RequestError(
            f"this server stores no item {id!r:.80}: send the item instead of its id",
            param="input",
            status=404,
        )

    def delete(self, owner: str, id: str) -> None:
        """Delete the stored answer with this id. Raises RequestError 404 if this owner has no such answer."""
        self._nbytes -= self._find(owner, id).nbytes
        del self._kept[id]

    def _find(self, owner: str, id: str) -> Kept:
        kept = self._kept.get(id)
        if kept is None or kept.owner != owner:
            raise RequestError(
                f"this server stores no response {id!r:.80}: send the conversation instead of the "
                "response's id",
                param="previous_response_id",
                code="previous_response_not_found",
                status=404,
            )
        self._kept.move_to_end(id)
        return kept
