"""Models on many machines, over Ray: callables for Ray Data, files of rows computed block by block, a server.

In: batches of texts, a file of texts, or requests, and bundles that each machine has. Out: columns, a folder
with a file for each block, or answers. The callables don't need Ray; everything else needs the extra [ray].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .callables import Classify as Classify
from .callables import Embed as Embed
from .callables import Generate as Generate
from .callables import Tag as Tag

if TYPE_CHECKING:
    from ray.serve import Application


def app(settings: dict[str, str]) -> Application:
    """Return the server for `serve run tfm.runtime.fleet:app bundle=PATH`; see `settings.Settings`."""
    from .cluster import settle

    settle()
    from .serving import application

    return application(settings)
