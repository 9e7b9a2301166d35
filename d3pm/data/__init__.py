"""Data: rows of integers or of floats, with a codec back. Text and pictures; tables fit the same two classes."""

from d3pm.data.base import Codec, DataSource
from d3pm.data.blocks import PaddedDocuments, TokenBlocks
from d3pm.data.codec import TextCodec
from d3pm.data.image_codec import ImageCodec
from d3pm.data.images import ImageData
from d3pm.data.normalize import text8_normalize
from d3pm.data.text import TextData
from d3pm.data.unigram import frequencies

__all__ = [
    "Codec",
    "DataSource",
    "ImageCodec",
    "ImageData",
    "PaddedDocuments",
    "TextCodec",
    "TextData",
    "TokenBlocks",
    "frequencies",
    "text8_normalize",
]
