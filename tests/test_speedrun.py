"""The record run: its network, its bound, its optimizer, its arithmetic, and the script from end to end."""

import dataclasses
import doctest
import importlib.util
import itertools
import json
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from d3pm import AbsorbingTransition, DiffusionModel, DiscreteDiffusion
from d3pm.errors import ConfigError
from d3pm.networks import TransformerDenoiser
from d3pm.networks.character_transformer import CharacterTransformer, Neighbors
from d3pm.networks.windows import WindowEmbedding, shifted
from d3pm.sampling import draw

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "speedrun_text8.py"
RUNS = ("ours", "d3pm", "autoregressive")


def load_script():
    sys.path.insert(0, str(SCRIPT.parent))  # where the script finds its neighbours
    spec = importlib.util.spec_from_file_location("speedrun_text8", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


speedrun = load_script()
symbols = sys.modules["pieces"].symbols
TINY = ["dim=16", "depth=1", "heads=2", "block=16", "batch=4", "window=2", "window_dim=4"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def network(causal=False, **changes):
    """One whose every part has a say: nothing is left at zero."""
    made = CharacterTransformer(
        28, **{"dim": 32, "depth": 2, "heads": 2, "window": 2, **changes}, causal=causal
    )
    for parameter in made.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return made


def influence(made, length=9):
    """Whether output i changes with entry j, bool (L, L)."""
    x = torch.randint(27, (1, length))
    changed = x.repeat(length, 1)
    changed.diagonal().copy_((x[0] + 1) % 27)
    with torch.no_grad():
        return ((made(changed) - made(x)).abs().amax(-1) > 1e-7).T


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_both_directions_see_everything_and_a_causal_one_nothing_to_its_right(reach):
    assert influence(network(reach=reach)).all()
    assert torch.equal(influence(network(causal=True, reach=reach)), torch.ones(9, 9).tril().bool())


def test_neighbors_are_as_many_and_as_near_as_told():
    x = torch.eye(9)[None]
    for causal, seen in ((False, {-2, -1, 0, 1, 2}), (True, {-4, -3, -2, -1, 0})):
        y = Neighbors(9, 2, causal)(x)[0]
        assert {int(j - i) for i, j in y.nonzero()} == seen


def test_the_twin_is_the_same_network():
    for device in speedrun.RECIPES:
        with torch.device("meta"):
            ours, twin = (
                speedrun.make_network(run, speedrun.RECIPES[device][run])
                for run in ("ours", "autoregressive")
            )
        assert {k: v.shape for k, v in ours.state_dict().items()} == {
            k: v.shape for k, v in twin.state_dict().items()
        }
        for recipes in (speedrun.RECIPES, speedrun.IN_PIECES):
            assert recipes[device]["ours"] == recipes[device]["autoregressive"]


def test_the_rival_is_the_papers():
    recipe = speedrun.RECIPES["cuda"]["d3pm"]
    assert (recipe.depth, recipe.dim, recipe.heads, recipe.batch, recipe.block) == (12, 768, 12, 512, 256)
    with torch.device("meta"):
        rival = speedrun.make_network("d3pm", recipe)
    assert isinstance(rival, TransformerDenoiser)
    assert (rival.blocks[0].mlp.hidden.out_features, rival.time_conditioned) == (3072, True)
    (adam,) = speedrun.make_optimizers("d3pm", recipe, nn.Linear(2, 2))
    assert type(adam) is torch.optim.Adam
    assert (adam.param_groups[0]["lr"], speedrun.NUM_STEPS) == (5e-4, 1000)


def test_a_fresh_network_believes_in_everything_alike():
    assert not CharacterTransformer(5, dim=8, depth=1, heads=2)(torch.randint(5, (2, 7))).any()


def test_every_window_has_a_row_of_its_own():
    embedding = WindowEmbedding(num_states=2, dim=4, width=2, window_dim=4, causal=False)
    x = torch.tensor(list(itertools.product(range(2), repeat=4)))
    left, right = (embedding.index(x, window) for window in embedding.windows)
    assert [len(left[:, i].unique()) for i in range(4)] == [1, 2, 4, 4]
    assert [len(right[:, i].unique()) for i in range(4)] == [4, 4, 2, 1]
    assert left[:, 0].unique() == 2 * 3 + 2  # nothing but the end
    assert torch.equal(shifted(shifted(x, 1, 9), -1, 9)[:, 1:], x[:, 1:])


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"num_states": 5000}, "window=3 of 5000 states"),
        ({"num_states": 5, "dim": 10, "heads": 4}, "dim=10"),
        ({"num_states": 5, "depth": 0}, "depth=0"),
        ({"num_states": 5, "window": -1}, "window=-1"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_line(arguments, field):
    with pytest.raises(ConfigError, match=field) as refused:
        CharacterTransformer(**{"dim": 16, **arguments})
    assert "\n" not in str(refused.value)


def test_hiding_takes_as_many_as_told_wherever_they_are():
    number = torch.arange(9)
    hidden = speedrun.hide(torch.zeros(9, 8), number, torch.Generator().manual_seed(0))
    assert torch.equal(hidden.sum(-1), number)
    many = speedrun.hide(torch.zeros(4000, 4), torch.full((4000,), 2), torch.Generator().manual_seed(0))
    counts = torch.unique(many, dim=0, return_counts=True)[1]
    assert len(counts) == 6  # sets of two of four
    assert (counts / 4000 - 1 / 6).abs().max() < 4 * (1 / 6 * 5 / 6 / 4000) ** 0.5


def test_the_score_is_the_bound():
    """Against every set of masks: the limit of the bound of T steps, which lies above it by less than CE(1) / 2T."""
    made, length = network(dim=16, depth=1).eval(), 4
    x0 = torch.randint(27, (1, length))
    sets = [torch.tensor([s]) for s in itertools.product([False, True], repeat=length) if any(s)]
    with torch.no_grad():
        nats = {tuple(s[0].tolist()): float(speedrun.surprise(made, x0, s)) for s in sets}
        by_number = [np.mean([v for s, v in nats.items() if sum(s) == n]) for n in range(1, length + 1)]
        drawn = speedrun.row_bits("ours", made, x0.expand(1000, -1), 4, torch.Generator().manual_seed(0))
    exact = float(np.mean(by_number))
    steps = np.arange(1, 1001) / 1000
    terms = [sum(s) * v * steps ** sum(s) * (1 - steps) ** (length - sum(s)) / steps for s, v in nats.items()]
    of_steps = sum(terms).sum() / 1000 / length
    assert abs(of_steps - exact) < max(nats.values()) / 2000
    error = float(drawn.std()) / 1000**0.5
    assert abs(float(drawn.mean()) * np.log(2) - exact) < 4 * error
    assert error > 0


def test_the_twins_score_is_the_likelihood():
    made = network(causal=True).eval()
    x0 = torch.randint(27, (1, 5))
    with torch.no_grad():
        one_by_one = 0.0
        for i in range(5):
            before = torch.cat([torch.full((1, 1), 27), x0[:, :i]], dim=1)
            one_by_one -= float(made(before)[0, -1, :27].log_softmax(-1)[x0[0, i]])
        bits = speedrun.row_bits("autoregressive", made, x0, 1, torch.Generator())
    assert float(bits) == pytest.approx(one_by_one / 5 / np.log(2), rel=1e-5)


def test_a_weighted_loss_is_the_bound_where_nothing_tilts_it():
    recipe = dataclasses.replace(speedrun.CPU, block=8, batch=2000, tilt=0.0)
    made, x0 = network(dim=16, depth=1), torch.randint(27, (1, 8)).expand(2000, -1)
    with torch.no_grad():
        loss = float(speedrun.masked_loss(made, recipe, x0, torch.Generator().manual_seed(0))) / np.log(2)
        bits = speedrun.row_bits("ours", made, x0, 1, torch.Generator().manual_seed(1))
        tilted = dataclasses.replace(recipe, tilt=1.0, last_tilt=0.0)
        same = speedrun.masked_loss(made, tilted, x0, torch.Generator().manual_seed(0), share=1.0)
        early = speedrun.masked_loss(made, tilted, x0, torch.Generator().manual_seed(0), share=0.0)
    assert abs(loss - float(bits.mean())) < 5 * float(bits.std()) / 2000**0.5
    assert float(same) / np.log(2) == pytest.approx(loss)
    assert float(early) / np.log(2) != pytest.approx(loss, rel=1e-4)


class Peeking(nn.Module):
    """A network whose belief is uniform, and which is surprised alike everywhere; it remembers what it saw."""

    num_states = 28

    def __init__(self):
        super().__init__()
        self.masks, self.numbers = [], []

    def forward(self, x, number):
        self.masks.append(x == 27)
        self.numbers.append(number)
        return torch.zeros(*x.shape, 28)


def test_complements_hide_every_character_once():
    recipe, peeking = dataclasses.replace(speedrun.CPU, complement=True), Peeking()
    loss = speedrun.masked_loss(peeking, recipe, torch.randint(27, (8, 6)), torch.Generator().manual_seed(0))
    first, second = peeking.masks[0].chunk(2)
    assert torch.equal(first, ~second)
    assert loss.item() == pytest.approx(np.log(27))


def test_rows_that_did_not_change_need_no_second_call():
    """The network does not look at the time and says so; samplers then ask once a change: at most once a character."""
    made = network()
    process = DiscreteDiffusion(AbsorbingTransition(28, num_steps=50))
    samples = draw(process, made, (3, 6), generator=torch.Generator().manual_seed(0))
    assert (samples.calls <= 6 + 1).all()


def test_few_characters_are_hidden_at_first_and_any_number_later():
    recipe, peeking = dataclasses.replace(speedrun.CPU, most=0.5, most_until=0.3), Peeking()
    for share in (0.0, 0.29, 0.3, 1.0):
        speedrun.masked_loss(peeking, recipe, torch.randint(27, (40, 20)), None, share)
    assert [int(number.max()) for number in peeking.numbers] == [10, 10, 20, 20]
    assert torch.equal(peeking.numbers[2].sort().values, torch.arange(1, 21).repeat_interleave(2))


def test_muon_moves_all_singular_values_alike_and_shapes_together():
    first, second, wide = (nn.Parameter(torch.randn(shape)) for shape in ((6, 6), (6, 6), (3, 12)))
    before = [p.detach().clone() for p in (first, second, wide)]
    for p in (first, second, wide):
        p.grad = torch.randn_like(p)
    optimizer = speedrun.Muon([first, second, wide], lr=0.1)
    optimizer.step()
    for p, old in zip((first, second, wide), before, strict=True):
        values = torch.linalg.svdvals((p.detach() - old) / 0.1)
        assert values.min() > 0.5
        assert values.max() < 1.3
        assert ((p.detach() - old) * p.grad).sum() < 0
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize("run", RUNS)
def test_one_graph_also_in_half_precision(run):
    """The boundary that is compiled: the network; a break would raise."""
    recipe = speedrun.changed(speedrun.RECIPES["cpu"][run], TINY)
    made = speedrun.make_network(run, recipe)
    loss_of = speedrun.make_loss(run, recipe)
    x0 = torch.randint(27, (4, 16))
    fast = torch.compile(made, fullgraph=True, backend="eager")
    plain, compiled = (loss_of(f, x0, torch.Generator().manual_seed(0), 0.5) for f in (made, fast))
    assert plain.item() == pytest.approx(compiled.item(), rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        half = loss_of(fast, x0, torch.Generator().manual_seed(0), 0.5)
    half.backward()
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(plain.item(), rel=2e-2)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


@pytest.mark.parametrize(
    "run", ["ours", "autoregressive"]
)  # the paper's has no objective but the package's own
@pytest.mark.parametrize("recipes", ["RECIPES", "IN_PIECES"])
def test_a_step_of_the_large_run_never_waits_for_the_device(run, recipes):
    """On a device of shapes without values, where looking at one raises; at full size, so the shapes are those."""
    recipe = getattr(speedrun, recipes)["cuda"][run]
    with torch.device("meta"):
        made, text = speedrun.make_network(run, recipe), torch.zeros(1000, dtype=torch.uint8)
    x0 = speedrun.random_rows(text, recipe.batch, recipe.block, None)
    loss = speedrun.make_loss(run, recipe)(made, x0, None, 0.5)
    loss.backward()
    assert (loss.shape, loss.device.type) == ((), "meta")
    assert all(p.grad is not None for p in made.parameters())
    speedrun.Muon([m.weight for m in made.blocks.modules() if isinstance(m, nn.Linear)], 0.02).step()


def test_rates_rise_by_steps_and_fall_by_the_clock():
    recipe = dataclasses.replace(speedrun.CPU, warmup=10, cooldown=0.5)
    found = [
        speedrun.rate_at(step, share, recipe) for step, share in [(0, 0), (9, 0.1), (50, 0.5), (99, 0.75)]
    ]
    assert found == pytest.approx([0.1, 1, 1, 0.5])
    assert speedrun.rate_at(100, 1.01, recipe) == 0


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Letters in order, two spaces after each: there is something to learn at once."""
    file = tmp_path_factory.mktemp("text") / "letters.xz"
    letters = "".join(f"{letter}  " for letter in "abcdefghijklmnopqrstuvwxyz")
    file.write_bytes(lzma.compress((letters * 200)[:10_000].encode()))
    return file


def test_a_text_is_cut_in_order(text):
    symbols = speedrun.read_text(text)
    parts = [speedrun.cut(symbols, split) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [9000, 500, 500]
    assert np.array_equal(np.concatenate(parts)[::3], np.arange(3334) % 26 + 1)


def test_a_text_in_other_letters_is_refused_in_a_line(tmp_path):
    (tmp_path / "bad.txt").write_text("plain text, with a comma")
    with pytest.raises(SystemExit, match=r"bad\.txt: holds more than a-z and spaces at 10"):
        speedrun.read_text(tmp_path / "bad.txt")


WORDS = "a cat and the hat of that man in a red house  whom the cats and hats of men in red houses met "


@pytest.fixture(scope="module")
def pieces():
    return speedrun.Pieces(symbols(WORDS * 40), size=48, block=16, counted=500)


def test_text_in_pieces_is_the_text(pieces):
    for text in (WORDS, WORDS[1:], WORDS[5:].strip(), "xyz", "  a", "a" * 20):
        entries = pieces.encode(symbols(text))
        assert pieces.codec.decode(torch.from_numpy(entries)[None]) == [text]
        assert np.array_equal(entries, pieces.encode_each([symbols(text)])[0])


def test_the_examples_of_pieces_hold():
    results = doctest.testmod(sys.modules["pieces"])
    assert (results.failed, results.attempted > 2) == (0, True)


def test_pieces_do_not_depend_on_where_a_text_is_cut(pieces, monkeypatch):
    whole = pieces.encode(symbols(WORDS * 3))
    assert len(whole) < 0.6 * len(WORDS * 3)
    monkeypatch.setattr(sys.modules["pieces"], "CHUNK", 5)
    assert np.array_equal(pieces.encode(symbols(WORDS * 3)), whole)


def test_lengths_have_a_law_and_none_is_impossible(pieces):
    law = [2.0 ** -pieces.bits_of_length(n) for n in range(1, 17)]
    assert sum(law) == pytest.approx(1)
    assert law[0] == pytest.approx(0.5 / 508)  # no block is a single piece
    assert np.argmax(law) in range(5, 12)


def test_a_bound_in_pieces_is_that_of_every_set_of_masks(pieces):
    """A block of few pieces: the mean over numbers of masks of the mean over sets of so many; and the length."""
    made = CharacterTransformer(49, dim=32, depth=1, heads=2, window=1).eval()
    nn.init.normal_(made.head.weight)
    rows = torch.from_numpy(symbols(" the cat")).long().expand(2, -1)
    ((_, x0, of_length),) = speedrun.alike(rows, pieces)
    x0, count = x0[:1], x0.shape[1]
    assert count < 5
    assert of_length == pieces.bits_of_length(count)
    by_number = {number: [] for number in range(1, count + 1)}
    for hidden in itertools.product([False, True], repeat=count):
        if any(hidden):
            with torch.no_grad():
                by_number[sum(hidden)].append(float(speedrun.surprise(made, x0, torch.tensor([hidden]))))
    exact = count * np.mean([np.mean(nats) for nats in by_number.values()]) / np.log(2) + of_length
    args = speedrun.parse(["--run", "ours", "--draws", "1000"])
    found = speedrun.score("ours", made, rows, 8, pieces, args)["bits_per_char"]
    assert found == pytest.approx(exact / 8, rel=0.03)


def test_more_pieces_than_there_are_is_refused_in_a_line():
    with pytest.raises(SystemExit, match="pieces=5: the letters alone are 27"):
        speedrun.Pieces(symbols(WORDS), size=5, block=16)
    with pytest.raises(SystemExit, match=r"pieces=500: the text yields \d+: give 27 … \d+$"):
        speedrun.Pieces(symbols(WORDS), size=500, block=16)


def test_a_score_in_pieces_is_of_the_same_characters(pieces):
    """Block by block: the likelihood of its pieces, and what it takes to say how many they are."""
    made = CharacterTransformer(49, dim=32, depth=1, heads=2, window=1, causal=True).eval()
    nn.init.normal_(made.head.weight)
    rows = torch.from_numpy(symbols((WORDS * 3)[: 8 * 32])).long().view(8, 32)
    args = speedrun.parse(["--run", "autoregressive", "--draws", "1", "--score-chars", "48"])
    found = speedrun.score("autoregressive", made, rows, 16, pieces, args)
    bits = torch.zeros(16, dtype=torch.float64)
    with torch.no_grad():
        for i, block in enumerate(rows.view(16, 16)):
            (entries,) = pieces.encode_each([block.numpy().astype(np.uint8)])
            nats = speedrun.causal_nats(made, torch.from_numpy(entries)[None]).sum()
            bits[i] = float(nats) / np.log(2) + pieces.bits_of_length(len(entries))
    per_row = bits.view(8, 2).sum(1) / 32
    assert found["bits_per_char"] == pytest.approx(float(per_row.mean()), rel=1e-5)
    assert found["standard_error"] == pytest.approx(float(per_row.std()) / 8**0.5, rel=1e-4)
    assert len({len(entries) for entries in pieces.encode_each(list(rows.view(16, 16).numpy()))}) > 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--run", "d3pm", "--pieces"], "--pieces: d3pm is of characters"),
        (["--run", "d3pm", "--set", "pieces=48"], "--set pieces=48: give it with --pieces"),
        (["--run", "ours", "--pieces", "--set", "pieces=0"], "--set pieces=0: give it with --pieces"),
        (["--run", "ours", "--minutes", "0"], "--minutes 0: give more than 0"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(options, said):
    with pytest.raises(SystemExit, match=said):
        speedrun.main([*options, "--cpu"])


def test_time_that_is_up_before_training_began_is_told(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text(WORDS * 300)
    options = ["--minutes", "1e-6", "--pieces", "--set", *TINY, "window=1", "pieces=48"]
    with pytest.raises(SystemExit, match="--minutes 1e-06: writing the text in pieces took all of them"):
        speedrun.main(["--run", "ours", "--cpu", "--data", str(file), "--output", str(tmp_path), *options])


def test_training_ends_when_its_time_is_up():
    clock = speedrun.Clock(torch.device("cpu"), 0.05)
    assert clock.share() < 1
    while clock.share() < 1:
        torch.randn(100)
    assert 0.05 <= clock.elapsed() < 5


@pytest.mark.parametrize("run", ["ours", "autoregressive"])
def test_a_run_in_pieces_from_end_to_end(run, tmp_path, capsys):
    file = tmp_path / "words.txt"
    file.write_text(WORDS * 300)
    command = ["--run", run, "--steps", "60", "--cpu", "--eager", "--pieces", "--data", str(file)]
    options = ["--output", str(tmp_path / "run"), "--rows", "4", "--draws", "4", "--every", "0"]
    settings = [*TINY, "window=1", "pieces=48", "rate=0.01", "warmup=5"]
    result = speedrun.main([*command, *options, "--set", *settings])
    density = result["chars_of_an_entry"]
    assert 2 < density < 4
    assert result["chars_seen"] == pytest.approx(60 * 4 * 16 * density, abs=1)
    assert 0 < result["scores"]["test"]["bits_per_char"] < 0.8 * np.log2(48) / density  # something was learnt
    losses = [
        float(line.split("loss ")[1].split()[0])
        for line in capsys.readouterr().out.splitlines()
        if "loss" in line
    ]
    assert losses[0] == pytest.approx(np.log2(48) / density, rel=0.01)  # a fresh network, in bits a character
    if run == "ours":
        model = DiffusionModel.from_pretrained(tmp_path / "run")
        (said,) = model.codec.decode(model.sample(1, steps=4, seed=0))
        assert set(said) <= set(" abcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize("run", RUNS)
def test_a_run_from_end_to_end(run, text, tmp_path, capsys):
    command = [
        "--run",
        run,
        "--steps",
        "60",
        "--cpu",
        "--eager",
        "--data",
        str(text),
        "--output",
        str(tmp_path),
    ]
    options = [
        "--rows",
        "2",
        "--span",
        "256",
        "--draws",
        "4",
        "--every",
        "0",
        "--set",
        *TINY,
        "rate=0.01",
        "warmup=5",
    ]
    speedrun.main([*command, *options])
    lines = capsys.readouterr().out.splitlines()
    assert any("chars/s" in line and "TFLOP/s" in line and "GB" in line for line in lines)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["steps"], result["chars_seen"]) == (60, 60 * 4 * 16)
    assert set(result["scores"]) == {"validation", "test", "test_of_256"}
    scored = result["scores"]["test"]
    assert 0 < scored["bits_per_char"] < np.log2(27)  # something was learnt
    assert scored["standard_error"] > 0
    if run == "autoregressive":
        assert set(torch.load(tmp_path / "network.pt")) == set(
            speedrun.make_network(run, speedrun.changed(speedrun.CPU, TINY)).state_dict()
        )
    else:
        model = DiffusionModel.from_pretrained(tmp_path)
        assert model.sample(2, steps=4, seed=0).shape == (2, 16)


def test_it_runs_where_little_is_installed(text, tmp_path):
    """With torch, numpy, transformers and tokenizers alone."""
    absent = [
        "datasets",
        "jsonargparse",
        "diffusers",
        "scipy",
        "pandas",
        "matplotlib",
        "accelerate",
        "sklearn",
    ]
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        f"absent = {absent}\n"
        "class Fewer(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, *rest):\n"
        "        return None if name.partition('.')[0] in absent else super().find_spec(name, *rest)\n"
        "sys.meta_path[:] = [Fewer if finder is PathFinder else finder for finder in sys.meta_path]\n"
    )
    options = [
        "--run",
        "ours",
        "--minutes",
        "0.005",
        "--cpu",
        "--eager",
        "--data",
        text,
        "--output",
        tmp_path / "run",
    ]
    tiny = ["--rows", "2", "--span", "256", "--draws", "1", "--set", *TINY]
    done = subprocess.run(
        [sys.executable, SCRIPT, *options, *tiny],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "bits/char" in done.stdout


def test_the_config_is_the_scripts_network_and_its_arithmetic_holds():
    file = ROOT / "configs" / "text8-gpu.yaml"
    config, head = yaml.safe_load(file.read_text()), file.read_text().partition("\n\n")[0]
    recipe = speedrun.RECIPES["cuda"]["ours"]
    told = config["network"]["init_args"]
    assert {key: getattr(recipe, key) for key in told if key != "num_states"} == {
        key: value for key, value in told.items() if key != "num_states"
    }
    assert (config["data"]["init_args"]["block_size"], config["training"]["batch_size"]) == (
        recipe.block,
        recipe.batch,
    )
    with torch.device("meta"):
        made = speedrun.make_network("ours", recipe)
    work = speedrun.operations("ours", recipe)
    assert f"{sum(p.numel() for p in made.parameters()) / 1e6:.1f}M parameters" in head
    assert f"{work / 1e6:.0f} MFLOP a character" in head
    assert f"{work * recipe.batch * recipe.block / 1e12:.0f} TFLOP a step" in head
    assert f"{0.45 * 800e12 * 1500 / work / 1e9:.1f}e9 characters" in head
    assert f"{34 * recipe.batch * recipe.block * recipe.dim * recipe.depth / 1e9:.0f} GB" in head
