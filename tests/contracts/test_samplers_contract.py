"""What every sampler promises on every process it serves, and how it refuses the others."""

import inspect

import pytest
import torch
from oracle import concrete_subclasses

from d3pm.errors import ConfigError
from d3pm.process import Process
from d3pm.sampling import Sampler, draw

PROCESSES = [process for cls in concrete_subclasses(Process) for process in cls.example()]


def made_of_nothing(cls: type) -> bool:
    return all(p.default is not p.empty for p in inspect.signature(cls).parameters.values())


SAMPLERS = [cls() for cls in concrete_subclasses(Sampler) if made_of_nothing(cls)]
SHAPE = (6, 4)  # four entries: a table's columns


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Stranger:
    """A network that knows nothing, looks at the whole row, and may look at the time."""

    def __init__(self, process: Process, time_conditioned: bool) -> None:
        self.process, self.time_conditioned = process, time_conditioned

    def __call__(self, x_t, t):
        phase = x_t.double().flatten(1).cumsum(-1)[:, -1]
        if self.time_conditioned:
            phase = phase + t.double()
        places = torch.arange(x_t[0].numel(), dtype=torch.float64).view(x_t.shape[1:])
        phase = phase.view(-1, *[1] * (x_t.dim() - 1)) + 3 * places
        if not hasattr(self.process, "num_states"):
            doubled = getattr(self.process, "variance", "") == "learned_range"
            return torch.sin(torch.cat([phase, phase + 1], 1) if doubled else phase)
        return 2 * torch.sin(phase[..., None] + torch.arange(self.process.num_states))


def of(value) -> str:
    words = [type(value).__name__, *(v for v in vars(value).values() if isinstance(v, str))]
    kernel = getattr(value, "transition", None)
    return "-".join([*words, *([type(kernel).__name__] if kernel is not None else [])])


def served(sampler: Sampler, process: Process) -> bool:
    try:
        sampler.check_process(process)
        draw(
            process, Stranger(process, True), shape_of(process), steps=2, sampler=sampler, generator=seeded(0)
        )
    except ConfigError:
        return False
    return True


def shape_of(process: Process) -> tuple[int, ...]:
    return SHAPE if hasattr(process, "num_states") else (6, 2, 2, 2)


PAIRS = [(sampler, process) for sampler in SAMPLERS for process in PROCESSES]
SERVED = [pair for pair in PAIRS if served(*pair)]
REFUSED = [pair for pair in PAIRS if pair not in SERVED]


@pytest.mark.parametrize(("sampler", "process"), REFUSED, ids=of)
def test_a_process_that_is_not_served_is_refused_in_one_line(sampler, process):
    with pytest.raises(ConfigError, match=type(sampler).__name__) as error:
        draw(process, Stranger(process, True), shape_of(process), steps=2, sampler=sampler)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("sampler", "process"), SERVED, ids=of)
class TestEverySampler:
    def test_samples_are_data_and_obey_the_generator(self, sampler, process):
        for steps in (1, 2, process.num_steps, None):
            first, second = (
                draw(
                    process,
                    Stranger(process, True),
                    shape_of(process),
                    steps=steps,
                    sampler=sampler,
                    generator=seeded(1),
                )
                for _ in range(2)
            )
            assert torch.equal(first.x0, second.x0)
            assert first.x0.shape == shape_of(process)
            assert torch.isfinite(first.x0).all()
            assert (first.calls >= 1).all()
            if hasattr(process, "num_states"):
                assert first.x0.dtype == torch.int64
                assert ((first.x0 >= 0) & (first.x0 < process.num_states)).all()
                finished = process.finished(first.x0)
                assert finished is None or finished.all()

    @pytest.mark.parametrize("time_conditioned", [True, False])
    def test_what_is_kept_from_the_network_changes_nothing(self, sampler, process, time_conditioned):
        frugal, plain = (
            draw(
                process,
                Stranger(process, time_conditioned),
                shape_of(process),
                steps=process.num_steps,
                sampler=sampler,
                generator=seeded(2),
                cache=cache,
            )
            for cache in (True, False)
        )
        assert torch.equal(frugal.x0, plain.x0)
        assert (frugal.calls <= plain.calls).all()

    def test_known_entries_come_out_as_given(self, sampler, process):
        shape = shape_of(process)
        known = torch.rand(shape, generator=seeded(3)) < 0.5
        x0 = torch.zeros(shape, dtype=torch.int64 if hasattr(process, "num_states") else torch.float32)
        for steps in (2, process.num_steps):
            found = draw(
                process,
                Stranger(process, True),
                shape,
                steps=steps,
                sampler=sampler,
                generator=seeded(4),
                known=known,
                x0=x0,
            )
            assert torch.equal(found.x0[known], x0[known])


MASKS, RANK_ONE = {"AbsorbingTransition"}, {"AbsorbingTransition", "UniformTransition"}
EVERY_KERNEL = RANK_ONE | {"MatrixTransition"}
KERNELS = {
    "FirstHitting": MASKS,
    "Remasking": MASKS,
    "Confidence": MASKS,
    "EntropyBounded": MASKS,
    "TauLeaping": RANK_ONE,
    "PredictorCorrector": RANK_ONE,
    "CategoricalDDIM": RANK_ONE,
    "Tweedie": EVERY_KERNEL,
    "Greedy": EVERY_KERNEL,
    "Ancestral": EVERY_KERNEL,
}


@pytest.mark.parametrize("sampler", SAMPLERS, ids=of)
def test_each_serves_what_its_docs_say(sampler):
    """None serves fewer kernels, and those of one wing do not serve the other."""
    found = {
        type(process.transition).__name__
        for one, process in SERVED
        if one is sampler and hasattr(process, "transition")
    }
    assert found == KERNELS.get(type(sampler).__name__, set())
    others = [process for one, process in SERVED if one is sampler and not hasattr(process, "transition")]
    if type(sampler).__name__ == "Ancestral":
        assert len(others) == sum(not hasattr(process, "transition") for process in PROCESSES)
    elif type(sampler).__name__ in KERNELS:
        assert not others
    else:
        assert others
