"""Run models on many machines with Ray: as callables for Ray Data, over files of rows, or as a server.

The input is batches of texts, a file of texts, or requests. Each machine must have the bundles. The output
is columns, a folder with a file for each block of rows, or answers. The callables don't need Ray.
Everything else needs the extra [ray].
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
    """Return the server for `serve run tfm.runtime.fleet:app bundle=PATH`. `settings.Settings` lists all
    settings.
    """
    from .cluster import settle

    settle()
    from .serving import application

    return application(settings)
