"""Models on many machines, over Ray: callables for Ray Data, files of rows computed block by block, a server.

In come batches of texts, a file of them, or requests, with bundles that each machine has; out go columns, a
folder with a file a block, or answers. The callables need no Ray; everything else is the extra [ray].
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
    """The server for `serve run tfm.runtime.fleet:app bundle=PATH`; see `settings.Settings`."""
    from .cluster import settle

    settle()
    from .serving import application

    return application(settings)
