"""A model for many at a time: texts of several requests share the steps of one engine.

In come prompts and options, out go texts as they become certain: to asyncio (`AsyncModel`), and over HTTP as
the OpenAI API has it.
"""

from .async_model import AsyncModel as AsyncModel
from .async_model import AsyncTextStream as AsyncTextStream
from .worker import QueueFullError as QueueFullError
