# Tests compare with transformers without checking how they call it: pyright would read its 3,000 files.
from typing import Any

def __getattr__(name: str) -> Any: ...
