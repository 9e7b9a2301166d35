"""Networks that look at a ruined row of states and give logits over the states it may have come from."""

from d3pm.networks.masked_lm import MaskedLMDenoiser
from d3pm.networks.transformer import TransformerDenoiser

__all__ = ["MaskedLMDenoiser", "TransformerDenoiser"]
