"""Any masked language model of `transformers`, taken as it is, for a network."""

import difflib
import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from d3pm.errors import CheckpointError, ConfigError
from d3pm.projection import Projection, project

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class MaskedLMDenoiser(nn.Module):
    """A `transformers` masked language model whose vocabulary is the set of states.

    The constructor makes fresh weights; `from_pretrained` loads published ones. The model never looks at
    ``t``, which the absorbing kernel allows: there, the number of masks tells the time. Its own ``[MASK]``
    can be the absorbing state: give its id to the transition as ``mask_index``. No id is padding:
    ``attention_mask`` alone says where a row ends.

    Args:
        config: What the ``to_dict()`` of a `transformers` configuration gives: ``model_type``, such as
            ``"bert"``, and whatever differs from its defaults (sizes, layers, dropout).
        num_states: How many states there are; None takes, and is kept as, the ``vocab_size`` of
            ``config``.

    Raises:
        ConfigError: If ``config`` names no masked language model or does not fit together; when called, if a
            row is longer than the model has positions.

    References:
        Austin et al., *Structured Denoising Diffusion Models in Discrete State-Spaces*, 2021, section 3.1
        (BERT is a one-step absorbing diffusion).

    >>> sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    >>> network = MaskedLMDenoiser({"model_type": "bert", **sizes}, num_states=28)
    >>> network(torch.randint(28, (3, 16)), torch.tensor([1, 500, 1000])).shape
    torch.Size([3, 16, 28])
    """

    time_conditioned = False

    def __init__(self, config: dict[str, Any], num_states: int | None = None) -> None:
        super().__init__()
        _check(num_states)
        self.config = config
        self._adopt(_fresh(config, num_states))

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, num_states: int | None = None) -> Self:
        """Load weights from a folder or the hub, in torch's default dtype and evaluation mode.

        If ``num_states`` is not the size of the vocabulary, rows of the embedding and of the output are cut
        off at the end, or fresh ones are added there.

        Raises:
            CheckpointError: If there is no masked language model at ``name_or_path``.
            ConfigError: If its architecture cannot change the size of its vocabulary.
        """
        _check(num_states)
        model = _published(name_or_path)
        vocabulary: int = model.config.vocab_size
        num_states = vocabulary if num_states is None else num_states
        if num_states != vocabulary:
            model.resize_token_embeddings(num_states, mean_resizing=False)
        _fit(model.config, num_states)
        with torch.device("meta"):  # a skeleton without memory, into which the loaded weights are put
            denoiser = cls(_plain(model.config), num_states)
        shapes = {name: parameter.shape for name, parameter in denoiser.model.named_parameters()}
        for name, parameter in model.named_parameters():
            if parameter.shape != shapes[name]:
                raise ConfigError(
                    f"num_states={num_states} cannot be had from {str(name_or_path)!r}, "
                    f"whose {name} keeps the size of its vocabulary: take num_states={vocabulary}"
                )
        denoiser._adopt(model)
        return denoiser.eval()

    def forward(
        self, x_t: Tensor, t: Tensor, attention_mask: Tensor | None = None, defer: bool = False
    ) -> Tensor | Projection:
        """Logits (B, L, num_states) for states x_t (B, L), int64; ``t`` is ignored.

        Where ``attention_mask`` (B, L) is 0 the entry is padding: nothing real depends on it. With ``defer``, where
        the model ``defers``, the hidden states and the head instead.
        """
        length = x_t.shape[1]
        if length > self.max_length:
            raise ConfigError(
                f"max_position_embeddings={self.model.config.max_position_embeddings} is too few for rows of "
                f"{length}: take rows of at most {self.max_length}, or a config with more positions"
            )
        positions = {}
        if self.first_position is not None:
            positions["position_ids"] = torch.arange(length, device=x_t.device)[None] + self.first_position
        given = {"input_ids": x_t, "attention_mask": attention_mask, **positions}
        if not defer:
            return self.model(**given).logits
        head: Any = self.model.get_output_embeddings()
        head.held = True
        try:
            return project(self.model(**given).logits, head)
        finally:
            head.held = False

    def _adopt(self, model: "PreTrainedModel") -> None:
        self.model = model
        self.num_states: int = model.config.vocab_size
        embedding: Any = model.get_input_embeddings()
        embedding.padding_idx = None  # else that state's row would never be trained
        self.first_position = _first_position(model)
        positions = getattr(model.config, "max_position_embeddings", None)
        self.max_length = float("inf") if positions is None else positions - (self.first_position or 0)
        self.defers = self._defers()
        # A PreTrainedModel around this module reads here which of its parameters share memory.
        self.all_tied_weights_keys = {
            f"model.{name}": f"model.{source}" for name, source in model.all_tied_weights_keys.items()
        }

    def _defers(self) -> bool:
        """Whether hidden states are smaller than logits and can be had: the model's last act is a linear map."""
        head = self.model.get_output_embeddings()
        if type(head) is not nn.Linear or self.num_states <= head.in_features:
            return False
        if not _ends_in(self.model, head):
            return False
        head.__class__ = _Head  # which copies of the model, and names of its weights, survive
        return True


class _Head(nn.Linear):
    """A linear map that can be left undone."""

    held = False

    def forward(self, x: Tensor) -> Tensor:
        return x if self.held else super().forward(x)


def _ends_in(model: "PreTrainedModel", head: nn.Linear) -> bool:
    """Whether the logits are what the head gives, with nothing done to them: tried on one token."""
    given: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, args, output: given.append(output))
    trained = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, 1, dtype=torch.int64, device=head.weight.device)).logits
    except Exception:  # an architecture that wants more than states: it gives logits
        return False
    finally:
        hook.remove()
        model.train(trained)
    return len(given) == 1 and logits is given[0]


def _check(num_states: int | None) -> None:
    if num_states is not None and num_states < 2:
        raise ConfigError(f"num_states={num_states} leaves nothing to predict: take 2 or more")


def _fresh(config: dict[str, Any], num_states: int | None) -> "PreTrainedModel":
    from transformers import AutoConfig, AutoModelForMaskedLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as KNOWN

    model_type = config.get("model_type")
    if model_type not in KNOWN:
        near = difflib.get_close_matches(str(model_type), KNOWN, n=1) or ["bert"]
        raise ConfigError(
            f"config has model_type={model_type!r}, which is no masked language model of transformers: "
            f"take one such as {near[0]!r}"
        )
    try:
        parsed = AutoConfig.for_model(**config)
        _fit(parsed, parsed.vocab_size if num_states is None else num_states)
        return AutoModelForMaskedLM.from_config(parsed, dtype=torch.get_default_dtype())
    except Exception as error:  # of any kind: the user's dictionary is read by dozens of architectures
        raise ConfigError(
            f"config does not make a {model_type} model ({_one_line(error)}): correct that value"
        ) from error


def _published(name_or_path: str | Path) -> "PreTrainedModel":
    from transformers import AutoModelForMaskedLM

    try:
        return AutoModelForMaskedLM.from_pretrained(name_or_path, dtype=torch.get_default_dtype())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"name_or_path={str(name_or_path)!r} is no masked language model that can be read "
            f"({_one_line(error)}): give a folder written by save_pretrained, or a name on the hub"
        ) from error


def _fit(config: "PretrainedConfig", num_states: int) -> None:
    """Make the vocabulary the states: special ids beyond them name nothing any more."""
    config.vocab_size = num_states
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
        token = getattr(config, name, None)
        if token is not None and not 0 <= token < num_states:
            setattr(config, name, None)


def _first_position(model: "PreTrainedModel") -> int | None:
    """The number of a row's first position if the model would count ids that differ from its padding id.

    RoBERTa and its kin do so: left alone, they would take the state of that number for padding.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "create_position_ids_from_inputs_embeds"):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return None


def _plain(config: "PretrainedConfig") -> dict[str, Any]:
    """The configuration as JSON would hold it, without where and in which precision its weights lay."""
    plain = json.loads(json.dumps(config.to_dict()))
    return {name: value for name, value in plain.items() if name not in ("_name_or_path", "dtype")}


def _one_line(error: Exception) -> str:
    return textwrap.shorten(str(error), width=240, placeholder=" …")
