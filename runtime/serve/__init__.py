"""Serve a model to many users at a time: the texts of several requests share the steps of one engine.

The input is prompts and options. The output is generated texts, as streams for asyncio (`AsyncModel`) or
over HTTP in the form of the OpenAI API.
"""

from .async_model import AsyncModel as AsyncModel
from .async_model import AsyncTextStream as AsyncTextStream
from .worker import QueueFullError as QueueFullError
