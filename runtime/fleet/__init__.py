"""Models on many machines, over Ray: callables for Ray Data, and files of rows computed block by block.

In come batches of texts, or a file of them with a bundle that each machine has; out go columns, or a folder
with a file a block. The callables need no Ray; everything else is the extra [ray].
"""

from .callables import Classify as Classify
from .callables import Embed as Embed
from .callables import Generate as Generate
from .callables import Tag as Tag
