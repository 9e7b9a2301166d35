"""Networks that look at ruined data, and the time, and say what it may have come from.

Rows of states go in and logits over states come out, or images go in and images (or classes) come out; where
grey levels are the states, `PixelLogits` and `TruncatedLogistic` stand between the two. What the numbers mean is
not the network's business: the process that it is used with knows.
"""

from d3pm.networks.character_transformer import CharacterTransformer
from d3pm.networks.classifier import ImageClassifier
from d3pm.networks.image_transformer import ImageTransformer
from d3pm.networks.masked_lm import MaskedLMDenoiser
from d3pm.networks.pixel_logits import PixelLogits
from d3pm.networks.table import TableDenoiser
from d3pm.networks.text_classifier import TextClassifier
from d3pm.networks.transformer import TransformerDenoiser
from d3pm.networks.truncated_logistic import TruncatedLogistic
from d3pm.networks.unet import DiffusersUNet, UNetDenoiser

__all__ = [
    "CharacterTransformer",
    "DiffusersUNet",
    "ImageClassifier",
    "ImageTransformer",
    "MaskedLMDenoiser",
    "PixelLogits",
    "TableDenoiser",
    "TextClassifier",
    "TransformerDenoiser",
    "TruncatedLogistic",
    "UNetDenoiser",
]
