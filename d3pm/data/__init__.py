"""Data: rows of integers or of floats, with a codec back: text, sequences, pictures, tables."""

from d3pm.data.base import Codec, DataSource
from d3pm.data.blocks import PaddedDocuments, TokenBlocks, WholeDocuments
from d3pm.data.codec import TextCodec
from d3pm.data.fasta import FastaData
from d3pm.data.image_codec import ImageCodec
from d3pm.data.images import ImageData
from d3pm.data.normalize import text8_normalize
from d3pm.data.streaming import StreamedText
from d3pm.data.table import TableData
from d3pm.data.table_codec import TableCodec
from d3pm.data.text import TextData
from d3pm.data.unigram import frequencies

__all__ = [
    "Codec",
    "DataSource",
    "FastaData",
    "ImageCodec",
    "ImageData",
    "PaddedDocuments",
    "StreamedText",
    "TableCodec",
    "TableData",
    "TextCodec",
    "TextData",
    "TokenBlocks",
    "WholeDocuments",
    "frequencies",
    "text8_normalize",
]
