"""Texts judged by a language model that read more than ours: generative perplexity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from d3pm.errors import ConfigError, DataError

CONTEXT = 1024
"""Tokens a model looks at in one call, at most."""
BATCH = 8
"""Windows of text in one call."""


@dataclass(frozen=True)
class LanguageScore:
    """What a language model says of some texts.

    Attributes:
        nats: Sum of the surprise at all tokens.
        tokens: How many of its own tokens the texts have.
        characters: How many characters.
    """

    nats: float
    tokens: int
    characters: int

    @property
    def perplexity(self) -> float:
        """A token of the model; two tokenizers do not compare in it."""
        return math.exp(self.nats / self.tokens) if self.tokens else math.nan

    @property
    def bits_per_character(self) -> float:
        """The same surprise by the character: any two models compare in it."""
        return self.nats / self.characters / math.log(2) if self.characters else math.nan

    def as_dict(self) -> dict[str, float]:
        """Name to number."""
        return {
            "language_model_perplexity": self.perplexity,
            "language_model_bits_per_character": self.bits_per_character,
        }


class LanguageModel:
    r"""Surprise :math:`-\log p(x_i | x_{<i})` of every token of a text, in nats.

    Each text stands by itself, behind the tokenizer's beginning (or else end) token, so that its first token is
    scored too. A text longer than ``context`` is read through a window that moves on by half of it: a token is
    scored with all before it, or half a context of them at least. Low perplexity alone is no praise: a text that
    repeats itself has it too, so look at the entropy beside it.

    Args:
        model: A causal language model of ``transformers``.
        tokenizer: Its tokenizer.
        context: Tokens it looks at, the beginning one among them; as many as it can if not given, 1,024 at most.

    Raises:
        ConfigError: If the tokenizer has no beginning and no end token, or the context is below 2 or too long.

    References:
        Dieleman et al., *Continuous diffusion for categorical data*, 2022, section 5, for the measure and its trap.
    """

    def __init__(self, model: Any, tokenizer: Any, context: int | None = None) -> None:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise ConfigError(
                "language model: its tokenizer has neither a beginning nor an end token to start texts "
                "with: set one (tokenizer.bos_token) and save it"
            )
        most = getattr(model.config, "max_position_embeddings", None) or CONTEXT
        context = min(most, CONTEXT) if context is None else context
        if not 2 <= context <= most:
            raise ConfigError(f"context is {context}: this language model takes 2 … {most} tokens")
        self.model, self.tokenizer, self.start, self.context = model.eval(), tokenizer, int(start), context

    @classmethod
    def load(cls, path: str, context: int | None = None) -> LanguageModel:
        """From a folder, a file ``FOLDER/name.gguf``, or by a name on the hub; on the GPU if there is one.

        Raises:
            ConfigError: If there is none, or it cannot be read.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        file = Path(path)
        if path.lower().endswith(".gguf"):
            place, options = str(file.parent), {"gguf_file": file.name}
        else:
            place, options = path, {}
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(place, **options)
            model: Any = AutoModelForCausalLM.from_pretrained(place, **options)
        except Exception as error:  # of many kinds: files, the hub, unknown classes
            reason = next((line for line in str(error).splitlines() if line.strip()), "")
            reason = shorten(reason, 160, placeholder=" …")
            raise ConfigError(
                f"language model {path} cannot be read ({type(error).__name__}: {reason}): "
                "name a folder with a causal language model and its tokenizer, a .gguf file, or a model on the hub"
            ) from error
        return cls(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, context)

    @torch.no_grad()
    def score(self, texts: Sequence[str]) -> LanguageScore:
        """The surprise at all of ``texts``: a network call for every 8 windows."""
        numbers = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        windows = [window for tokens in numbers for window in self._windows(tokens)]
        windows.sort(key=lambda window: len(window[0]))  # of like lengths, so that little is padded
        nats = sum(self._nats(windows[i : i + BATCH]) for i in range(0, len(windows), BATCH))
        return LanguageScore(float(nats), sum(map(len, numbers)), sum(map(len, texts)))

    def _windows(self, tokens: list[int]) -> Iterator[tuple[list[int], int]]:
        """What is read in one call, and how many of its last tokens are scored there."""
        row, done, step = [self.start, *tokens], 1, max(1, self.context // 2)
        while done < len(row):
            stop = min(len(row), self.context if done == 1 else done + step)
            yield row[max(0, stop - self.context) : stop], stop - done
            done = stop

    def _nats(self, windows: list[tuple[list[int], int]]) -> float:
        """Sum over the tokens of a few windows that are scored in them."""
        longest = max(len(row) for row, _ in windows)
        x = torch.full((len(windows), longest), self.start)
        scored = torch.zeros(x.shape, dtype=torch.bool)
        mask = torch.zeros_like(x)
        for place, (row, count) in enumerate(windows):
            x[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
            scored[place, len(row) - count : len(row)] = True
        x, mask, scored = (each.to(self.model.device) for each in (x, mask, scored))
        logits: Tensor = self.model(input_ids=x, attention_mask=mask).logits[:, :-1]
        if not logits.isfinite().all():
            raise DataError("language model: it gives numbers that are not finite: take another one")
        chosen = scored[:, 1:]
        return float(cross_entropy(logits[chosen].float(), x[:, 1:][chosen], reduction="none").double().sum())
