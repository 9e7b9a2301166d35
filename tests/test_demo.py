"""What the page draws and shows, without a page: trajectories, marks, samplers on offer, refusals."""

import base64
import html
import importlib.util
import io
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

from d3pm.cli import demo
from d3pm.cli.prompt import blanks
from d3pm.data import TextCodec
from d3pm.data.image_codec import ImageCodec
from d3pm.demo import Trajectory, Wish, follow, fulfil, need_gradio, samplers_of, shown_of
from d3pm.demo.page import offered, said
from d3pm.demo.shown import Texts, marks, spans
from d3pm.demo.wish import ANY, IN_TURN
from d3pm.discrete.process import DiscreteDiffusion
from d3pm.errors import ConfigError, D3PMError, DataError
from d3pm.gaussian.process import GaussianDiffusion
from d3pm.model import DiffusionModel
from d3pm.networks import ImageTransformer, TransformerDenoiser
from d3pm.sampling import Ancestral, Sampler
from d3pm.schedules import CosineSchedule
from d3pm.transitions import AbsorbingTransition, UniformTransition

L, T, MASK = 16, 20, 27
PROMPT = "the ___ is"
KNOWN = [i for i, symbol in enumerate(PROMPT) if symbol != "_"]


def awake(network: torch.nn.Module) -> torch.nn.Module:
    """A network moved off its initial zeros."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


def text_model(transition=None, codec=None) -> DiffusionModel:
    transition = transition or AbsorbingTransition(num_states=28, num_steps=T)
    network = TransformerDenoiser(transition.num_states, dim=16, depth=1, heads=2)
    process, codec = DiscreteDiffusion(transition), codec or TextCodec.characters()
    return DiffusionModel(process=process, network=awake(network), codec=codec, shape=(L,)).eval()


def picture_model(num_classes: int | None = None) -> DiffusionModel:
    network = ImageTransformer(8, 1, patch=4, dim=16, depth=1, heads=2, num_classes=num_classes)
    process, codec = GaussianDiffusion(CosineSchedule(), T, "v"), ImageCodec((1, 8, 8), levels=17)
    return DiffusionModel(process=process, network=awake(network), codec=codec, shape=(1, 8, 8)).eval()


TEXT, UNIFORM = text_model(), text_model(UniformTransition(num_states=27, num_steps=T))
WISH = Wish(Ancestral(), steps=10, seed=3, prompt=PROMPT)


class Seen:
    """A network that remembers what it was asked."""

    time_conditioned = True

    def __init__(self, network):
        self.network, self.asked = network, []

    def __call__(self, x_t, t, **cond):
        self.asked.append(x_t.clone())
        return self.network(x_t, t, **cond)


# trajectories


def test_the_end_is_the_models_own_sample_of_that_seed():
    way = follow(TEXT, 3, steps=10, seed=5)
    assert torch.equal(way.x0, TEXT.sample(3, steps=10, seed=5))
    assert way.times == [20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0]
    assert torch.equal(way.calls, TEXT.draw(3, steps=10, seed=5).calls)
    assert way.seconds > 0


@pytest.mark.parametrize("model", [TEXT, UNIFORM, picture_model()], ids=["masks", "uniform", "pictures"])
def test_the_states_are_those_that_the_network_saw(model):
    seen = Seen(model.network)
    known = torch.zeros(2, *model.shape, dtype=torch.bool)
    known[..., ::3] = True
    x0 = torch.zeros(known.shape, dtype=model.sample(1, steps=1, seed=0).dtype)
    way = follow(model, 2, steps=T, seed=1, network=seen, options={"known": known, "x0": x0})
    assert len(way) == T + 1
    both = [
        (state, asked) for state, asked in zip(way.states[:-1], seen.asked, strict=False) if len(asked) == 2
    ]
    assert len(both) > T / 4
    assert all(torch.equal(state, asked) for state, asked in both)


def test_masks_only_go_and_given_entries_always_stand():
    way = fulfil(TEXT, replace(WISH, num=4), blanks)
    assert (way.states[0] == MASK).sum(1).tolist() == [L - len(KNOWN)] * 4
    for before, after in zip(way.states, way.states[1:], strict=False):
        assert torch.equal(after[before != MASK], before[before != MASK])
    for text in TEXT.codec.decode(way.x0):
        assert [text[i] for i in KNOWN] == [PROMPT[i] for i in KNOWN]
        assert "_" not in text


def test_of_many_steps_64_states_are_kept_evenly_spaced():
    model = text_model(AbsorbingTransition(num_states=28, num_steps=630))
    way = follow(model, 1, steps=630, seed=0)
    assert way.times == list(range(630, -1, -10))
    assert way.steps == 630


def test_progress_is_told_from_step_to_step():
    shares = []
    follow(TEXT, 1, steps=4, seed=0, progress=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1]


# wishes


def test_temperature_and_guidance_to_the_prompt_reach_the_network():
    cold = fulfil(TEXT, replace(WISH, temperature=0.01, num=64), blanks).x0
    warm = fulfil(TEXT, replace(WISH, num=64), blanks).x0
    assert cold[:, 4].unique().numel() < warm[:, 4].unique().numel()
    guided = fulfil(TEXT, replace(WISH, prompt_guidance=3.0), blanks)
    assert guided.calls.item() == 2 * fulfil(TEXT, WISH, blanks).calls.item()


def test_labels_come_in_turn_alone_or_not_at_all():
    model = picture_model(num_classes=3)
    wish, plain = Wish(Ancestral(), steps=4, num=4), {"steps": 4, "seed": 0}
    for label, labels in ((IN_TURN, [0, 1, 2, 0]), (2, [2] * 4), (ANY, None)):
        options = {} if labels is None else {"labels": torch.tensor(labels)}
        way = fulfil(model, replace(wish, label=label), blanks)
        assert torch.equal(way.x0, model.sample(4, **plain, **options))
    guided = fulfil(model, replace(wish, label=2, guidance=2.0), blanks)
    assert guided.calls.tolist() == [8] * 4


@pytest.mark.parametrize(
    ("wish", "error", "message"),
    [
        (replace(WISH, prompt="A cat"), DataError, "unknown symbol 'A'"),
        (
            replace(WISH, prompt="a" * 17),
            ConfigError,
            "prompt has 17 symbols, but a sample has 16: shorten it",
        ),
        (replace(WISH, steps=21), ConfigError, "steps is 21: this process has T=20, choose 1 .. 20"),
        (replace(WISH, guidance=2.0), ConfigError, "guidance is 2, but there is no class to guide to"),
        (replace(WISH, temperature=0.0), ConfigError, "temperature is 0.0"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(wish, error, message):
    with pytest.raises(error) as refused:
        fulfil(TEXT, wish, blanks)
    assert message in said(refused.value)
    assert "\n" not in said(refused.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seed", None, "seed is empty"),
        ("steps", 2.5, "steps is 2.5: give a whole"),
        ("seed", -1, "seed is -1"),
    ],
)
def test_fields_without_a_number_are_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        replace(WISH, **{field: value})


# what is shown


def way_of(*states: list[int], known: list[bool] | None = None) -> Trajectory:
    rows = [torch.tensor([state]) for state in states]
    held = None if known is None else torch.tensor([known])
    return Trajectory(list(range(len(rows) - 1, -1, -1)), rows, held, len(rows) - 1, torch.tensor([1]), 1.0)


def test_marks_tell_masked_given_and_new_entries():
    way = way_of([1, MASK, MASK], [1, MASK, 3], [1, 2, 3], known=[True, False, False])
    assert marks(way, 0, MASK) == [["given", "masked", "masked"]]
    assert marks(way, 1, MASK) == [["given", "masked", "new"]]
    assert marks(way, 2, MASK) == [["given", "new", ""]]


def test_a_frame_is_the_text_with_its_marks_escaped():
    codec = TextCodec.characters("<&>")
    way = way_of([3, 3, 3, 3], [0, 1, 3, 3], [0, 1, 2, 2])
    first, last = (Texts(codec).frame(way, index) for index in (1, 2))
    assert '<span class="new">&lt;&amp;</span><span class="masked">░░</span>' in first
    assert html.unescape(re.sub("<.*?>", "", last)) == "<&>>"


def test_spans_of_tokens_join_to_the_whole_text():
    codec = TextCodec.byte_pairs(["the cat and the hat sat on the mat " * 20, "schön wär's"], 275)
    row = codec.encode("the cat sat on the schöne hat")
    for cut in range(1, len(row)):
        mark = ["given"] * cut + ["new"] * (len(row) - cut)
        assert "".join(part for part, _ in spans(codec, row, mark)) == codec.decode(row[None])[0]
    masked = row.clone()
    masked[2:4] = codec.num_symbols
    found = spans(codec, masked, [""] * 2 + ["masked"] * 2 + [""] * (len(row) - 4))
    assert found[1] == ("░░", "masked")
    assert found[0][0] + found[2][0] == "".join(codec.decode(part[None])[0] for part in (row[:2], row[4:]))


def test_a_frame_of_pictures_holds_them_pixel_by_pixel():
    model = picture_model()
    way = follow(model, 3, steps=4, seed=0)
    frame = shown_of(model).frame(way, 4)
    found = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", frame)]
    wanted = model.codec.decode(way.x0)
    assert [np.asarray(a).tolist() for a in found] == [np.asarray(b).tolist() for b in wanted]
    assert 'width="80"' in frame  # 8 pixels, each as wide as 10


def test_tables_and_models_without_a_codec_are_refused():
    class Rows:
        columnwise = True

    for codec, message in ((Rows(), "d3pm sample RUN"), (None, "no codec")):
        model = text_model()
        model.codec = codec
        with pytest.raises(ConfigError, match=message):
            shown_of(model)


# samplers


def test_the_samplers_of_a_process_are_those_that_serve_it():
    for model in (TEXT, UNIFORM, picture_model()):
        found = samplers_of(model.process, model.shape)
        assert next(iter(found)) == "Ancestral"
        for sampler in found.values():
            assert torch.isfinite(model.sample(1, steps=2, seed=0, sampler=sampler).double()).all()
    assert {"DDIM", "Heun"} <= set(samplers_of(picture_model().process, (1, 8, 8)))
    assert not {"DDIM", "Heun", "GuidedAncestral"} & set(samplers_of(TEXT.process, (L,)))


def test_a_newcomers_sampler_is_found_unasked():
    @dataclass(frozen=True)
    class Newcomer(Sampler):
        once: int = 1

        def default_steps(self, process):
            return self.once

        def step(self, process, network, x_t, s, t, generator):
            return Ancestral().step(process, network, x_t, s, t, generator)

    found = samplers_of(TEXT.process, (L,))
    assert found["Newcomer"] == Newcomer()
    assert offered(found["Newcomer"], TEXT) == L  # one step would show nothing
    assert offered(found["Ancestral"], TEXT) == T


# the verb


def test_without_gradio_one_line_says_what_to_install(monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else found(name))
    with pytest.raises(D3PMError, match=r"pip install 'd3pm\[demo\]'"):
        demo.main([str(tmp_path)])
    with pytest.raises(ConfigError, match="gradio"):
        need_gradio()


def test_a_port_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--port is 70000"):
        demo.main([str(tmp_path), "--port", "70000"])
