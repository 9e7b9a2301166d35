"""A trained diffusion in one object: network, process, codec and objective; saved, loaded, sampled, scored.

The folder that ``save_pretrained`` writes is complete: ``config.json`` describes every part by class path
and arguments, ``model.safetensors`` holds the weights and the kernels' own tensors bit by bit, the codec's
files lie beside them. Loading it needs nothing of :mod:`d3pm.training`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from d3pm.data.base import Codec
from d3pm.errors import CheckpointError, ConfigError, D3PMError
from d3pm.objectives import VLB, Network, Objective, VariationalBound, vlb_estimate, vlb_terms
from d3pm.parallel import ALONE, Team, dealt, noise_of
from d3pm.process import Process
from d3pm.sampling import Samples, draw
from d3pm.specs import Part, build, describe, find_class

KINDS = (Part, torch.nn.Module, PretrainedConfig)


def on_cpu(bound: VLB) -> VLB:
    """The same, for whoever joins it with what other processes found."""
    return VLB(*(value.cpu() for value in vars(bound).values()))


class DiffusionConfig(PretrainedConfig):
    """Every part of a :class:`DiffusionModel` as plain data.

    Attributes:
        process: Spec of the process.
        network: Spec of the network.
        objective: Spec of the training loss.
        codec_class: Class path of the codec whose files lie in the folder, or None.
        shape: Of one example.
        constants: Name to shape and dtype of tensors among the arguments, stored with the weights.
        plans: The best times found for a number of steps: ``{"4": [1000, 600, 300, 100, 0]}``.
    """

    model_type = "d3pm"

    def __init__(
        self,
        process: dict[str, Any] | None = None,
        network: dict[str, Any] | None = None,
        objective: dict[str, Any] | None = None,
        codec_class: str | None = None,
        shape: Sequence[int] = (),
        constants: dict[str, Any] | None = None,
        plans: dict[str, list[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.process, self.network, self.objective = process, network, objective
        self.codec_class, self.shape, self.constants = codec_class, list(shape), constants or {}
        self.plans = plans or {}


@dataclass
class DiffusionOutput(ModelOutput):
    """What a training step returns.

    Attributes:
        loss: Mean loss in nats per entry.
        losses: (B,), the same by example.
    """

    loss: Tensor | None = None
    losses: Tensor | None = None


class Constants(torch.nn.Module):
    """Tensors among the parts' arguments, kept as raw bytes: no cast of the model may round a matrix."""

    def __init__(self, layout: dict[str, Any]) -> None:
        super().__init__()
        self.layout = layout
        for name, (shape, dtype) in layout.items():
            size = math.prod(shape) * getattr(torch, dtype).itemsize
            self.register_buffer(self._key(name), torch.zeros(size, dtype=torch.uint8))

    @staticmethod
    def _key(name: str) -> str:
        return name.replace(".", "__")

    def put(self, tensors: dict[str, Tensor]) -> None:
        """Store the values."""
        for name, value in tensors.items():
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            getattr(self, self._key(name)).copy_(raw)

    def get(self) -> dict[str, Tensor]:
        """The values, on the CPU, as they were given."""
        raw = {name: getattr(self, self._key(name)).cpu() for name in self.layout}
        return {
            n: raw[n].view(getattr(torch, dtype)).reshape(shape) for n, (shape, dtype) in self.layout.items()
        }


class DiffusionModel(PreTrainedModel):
    """A diffusion model: give the parts to make one, ``from_pretrained(path)`` to load one.

    Args:
        config: Of a saved model; left to ``from_pretrained``.
        process: The diffusion.
        network: An ``nn.Module`` called as ``network(x_t, t, **cond)``, each constructor argument of which is
            kept under its own name.
        objective: The training loss; the variational bound if not given.
        codec: Between examples and what people read.
        shape: Of one example, e.g. (256,).

    Raises:
        ConfigError: If a part cannot be described, or process and network disagree on the number of states.
    """

    config_class = DiffusionConfig
    base_model_prefix = ""
    main_input_name = "x0"
    supports_gradient_checkpointing = False

    def __init__(
        self,
        config: DiffusionConfig | None = None,
        *,
        process: Process | None = None,
        network: torch.nn.Module | None = None,
        objective: Objective | None = None,
        codec: Codec | None = None,
        shape: Sequence[int] = (),
    ) -> None:
        tensors: dict[str, Tensor] = {}
        if config is None:
            if process is None or network is None:
                raise ConfigError("DiffusionModel: give process and network, or load with from_pretrained")
            process.check_network(network, shape)
            objective = objective or VariationalBound()
            objective.check_process(process)
            parts = {"process": process, "network": network, "objective": objective}
            specs = {name: describe(part, tensors, name) for name, part in parts.items()}
            layout = {n: (list(v.shape), str(v.dtype).removeprefix("torch.")) for n, v in tensors.items()}
            kind = None if codec is None else f"{type(codec).__module__}.{type(codec).__qualname__}"
            config = DiffusionConfig(**specs, codec_class=kind, shape=shape, constants=layout)
        else:
            network = build(config.network, KINDS)
        super().__init__(config)
        assert network is not None
        self.network = network
        self.constants = Constants(config.constants)
        self.constants.put(tensors)
        self.codec = codec
        self.shape = tuple(config.shape)
        # Given parts are used as they are; saved ones are built on first use, once the constants are loaded. A loss
        # with a memory of its own is a module: it is there from the start, so that its memory is loaded too.
        given = {"process": process, "objective": objective}
        self._parts = {name: part for name, part in given.items() if part is not None}
        assert config.objective is not None
        if issubclass(find_class(config.objective["class_path"]), torch.nn.Module):
            self.memory = self._parts.setdefault("objective", build(config.objective, KINDS))
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Leave networks as their constructors made them."""

    @property
    def process(self) -> Process:
        """The diffusion, float64 tables and all."""
        return self._part("process")

    @property
    def objective(self) -> Objective:
        """The training loss."""
        return self._part("objective")

    def _part(self, name: str) -> Any:
        if name not in self._parts:
            with torch.device("cpu"):  # a lazy load may stand under another default device
                self._parts[name] = build(getattr(self.config, name), KINDS, self.constants.get())
        return self._parts[name]

    def plan(self, steps: int) -> list[int]:
        """The times of the best ``steps`` steps, from T to 0, as ``d3pm plan-steps`` found them.

        Raises:
            ConfigError: If none were looked for; the message says how to.
        """
        num_steps = self.process.num_steps
        if steps == num_steps:  # the only ones there are
            return list(range(num_steps, -1, -1))
        if str(steps) not in self.config.plans:
            known = ", ".join(sorted(self.config.plans, key=int)) or "none yet"
            raise ConfigError(
                f"this model has no plan of {steps} steps (plans: {known}): make one with "
                f"`d3pm plan-steps {self.name_or_path or 'RUN'} --steps {steps}`"
            )
        return list(self.config.plans[str(steps)])

    def forward(
        self,
        x0: Tensor,
        generator: torch.Generator | None = None,
        num_items_in_batch: Tensor | None = None,
        **cond: Any,
    ) -> DiffusionOutput:
        """One draw of the training loss.

        Args:
            x0: Data (B, \\*).
            generator: Source of times and noise, a :class:`~d3pm.draws.Share` where x0 is part of a larger batch;
                torch's own if not given.
            num_items_in_batch: How many entries count in the larger batch; the loss is then this part's share of its
                mean. Those of x0 if not given.
            **cond: Passed to the network; ``attention_mask`` also says which entries count.
        """
        nats = self.objective(self.process, self.network, x0, generator=generator, **cond)
        counted = self.objective.count(x0, cond).sum() if num_items_in_batch is None else num_items_in_batch
        return DiffusionOutput(loss=nats.sum() / counted, losses=nats)

    def sample(self, n: int, **options: Any) -> Tensor:
        """``n`` samples, (n, \\*shape): arguments and errors are those of :meth:`draw`."""
        return self.draw(n, **options).x0

    def draw(self, n: int, **options: Any) -> Samples:
        """``n`` samples and the number of network calls of each: arguments and errors are those of :meth:`batches`.

        A ``team`` of processes shares the batches, and each has all of them in the end.
        """
        team: Team = options.get("team", ALONE)
        return Samples.cat(team.joined(self.batches(n, **options)))

    def batches(
        self,
        n: int,
        *,
        steps: int | Sequence[int] | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        shape: Sequence[int] | None = None,
        network: Network | None = None,
        team: Team = ALONE,
        **kwargs: Any,
    ) -> Iterator[Samples]:
        """``n`` samples, batch by batch: whoever is interrupted keeps those that are done.

        Each batch has noise of its own, so it is the same whoever draws it: alone, or in a ``team``.

        Args:
            n: How many.
            steps: How many steps to take; what the sampler is used to if not given, T for most.
            seed: Equal seeds (and batch sizes) give equal samples.
            generator: Instead of a seed: goes on from batch to batch.
            batch_size: How many at a time; all if not given.
            shape: Of one sample; that of training if not given.
            network: A wrapper around ``self.network`` (guidance, temperature) to use in its place.
            team: The processes that share the batches: only this one's are drawn here.
            **kwargs: Of :func:`d3pm.sampling.draw`; (n, \\*) tensors are split with the batch.

        Raises:
            ConfigError: If ``n`` or ``batch_size`` is below 1, several processes have no seed, and as
                :func:`d3pm.sampling.draw` does.
        """
        if n < 1:
            raise ConfigError(f"the number of samples is {n}: take at least 1")
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: take at least 1")
        shape, size = tuple(shape or self.shape), batch_size or n
        for rows, mine in dealt(n, size, kwargs, seed=seed, generator=generator, team=team):
            was_training, _ = self.training, self.eval()
            batch = draw(
                self.process,
                network or self.network,
                (rows, *shape),
                steps=steps,
                device=self.device,
                **mine,
            )
            self.train(was_training)
            yield batch

    @torch.no_grad()
    def evaluate(
        self,
        x0: Tensor | Iterable[dict[str, Tensor]],
        *,
        num_times: int | None = None,
        seed: int = 0,
        team: Team = ALONE,
        bar: str | None = None,
        **cond: Any,
    ) -> VLB:
        """The bound on data, on the CPU: exact over t, or from ``num_times`` stratified times an example.

        Args:
            x0: (B, \\*), or batches ``{"x0": ..., ...}``, each of which has noise of its own.
            num_times: None takes all T.
            seed: Of times and noise.
            team: The processes that share the batches; each has the whole bound in the end.
            bar: What to call the work in a progress bar; None shows none.
            **cond: Passed to the network, with a tensor x0.
        """

        def bound(number: int, batch: dict[str, Tensor]) -> VLB:
            data: dict[str, Any] = {name: value.to(self.device) for name, value in batch.items()}
            data["generator"] = noise_of(seed, number)
            if num_times is None:
                found = vlb_terms(self.process, self.network, **data)
            else:
                found = vlb_estimate(self.process, self.network, num_times=num_times, **data)
            return on_cpu(found)

        was_training, _ = self.training, self.eval()
        parts = team.map(bound, [{"x0": x0, **cond}] if isinstance(x0, Tensor) else x0, bar)
        self.train(was_training)
        return VLB.cat(parts)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write the whole model, codec included, to a folder."""
        super().save_pretrained(save_directory, **kwargs)
        if self.codec is not None:
            self.codec.save_pretrained(save_directory)

    @classmethod
    def from_pretrained(cls, path: str | Path, *args: Any, **kwargs: Any) -> Self:  # type: ignore[override]
        """Load a folder (or hub name) written by :meth:`save_pretrained`.

        Raises:
            CheckpointError: If it is no such folder, or cannot be read.
        """
        folder = Path(path)
        if folder.exists() and not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{path} holds no model (no config.json): give a folder written by save_pretrained"
            )
        try:
            loaded: Any = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)
            model, found = loaded
            for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
                if found[problem]:
                    names = ", ".join(map(str, sorted(found[problem])[:3]))
                    raise CheckpointError(
                        f"{problem.replace('_', ' ')} in the weights: {names}; save the model again"
                    )
            model.process.check_network(model.network, model.shape)
            if model.config.codec_class is not None:
                kind = find_class(model.config.codec_class)
                if not issubclass(kind, Codec):
                    raise CheckpointError(f"codec_class {model.config.codec_class} is not a codec")
                model.codec = kind.from_pretrained(path)
        except D3PMError as error:
            raise CheckpointError(f"{path}: {error}") from error
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise CheckpointError(
                f"{path} cannot be read as a model ({type(error).__name__}: {reason})"
            ) from error
        return model
