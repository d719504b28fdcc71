"""The laws of each component, for everybody's kernels.

    pip install 'tfm-cli[laws]'

A specified function is one that `tfm.refimpl.ops` makes public. `check` holds another implementation
of it to the specification, within an error budget that is computed from the specification itself, and
to each law that is registered for it. Inputs are drawn from the specification's own declaration.
"""

from __future__ import annotations

from .kit.call import Call as Call
from .kit.checking import Draw as Draw
from .kit.checking import LawBroken as LawBroken
from .kit.checking import check as check
from .kit.checking import law as law
from .kit.checking import names as names
from .kit.subject import Subject as Subject
