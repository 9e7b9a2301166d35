"""Data: rows of integers, with a codec back. Text here; pictures and tables fit the same two classes."""

from d3pm.data.base import Codec, DataSource
from d3pm.data.blocks import PaddedDocuments, TokenBlocks
from d3pm.data.codec import TextCodec
from d3pm.data.normalize import text8_normalize
from d3pm.data.text import TextData
from d3pm.data.unigram import frequencies

__all__ = [
    "Codec",
    "DataSource",
    "PaddedDocuments",
    "TextCodec",
    "TextData",
    "TokenBlocks",
    "frequencies",
    "text8_normalize",
]
