"""``d3pm sample`` on a text: samplers, templates, patterns, blocks, guidance, watching, and being stopped."""

import re
import sys

import pytest
import torch
from test_cli import output, refusal
from tiny import train, write_config

from d3pm.cli import main
from d3pm.cli.drawn import drawn
from d3pm.cli.forms import Draw
from d3pm.cli.screen import wrapped
from d3pm.cli.watching import NEW, PLAIN, marked
from d3pm.data import TextCodec
from d3pm.model import DiffusionModel

MASKED = (
    "FirstHitting", "Confidence", "EntropyBounded", "Greedy", "Remasking", "CategoricalDDIM", "TauLeaping",
    "Tweedie", "PredictorCorrector", "Ancestral",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sampling")


@pytest.fixture(scope="module")
def run(folder):
    config = write_config(folder, max_steps=4)
    assert train(config, folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def uniform(folder, run):
    config = folder / "tiny.yaml"
    text = config.read_text().replace("AbsorbingTransition", "UniformTransition")
    (folder / "uniform.yaml").write_text(text.replace("num_states: 28", "num_states: 27"))
    assert train(folder / "uniform.yaml", folder / "uniform") == 0
    return folder / "uniform"


def told(capsys, *argv):
    """What a command that succeeds says on standard error."""
    capsys.readouterr()
    assert main([str(arg) for arg in argv]) == 0
    return capsys.readouterr().err


def texts(capsys, *argv):
    """The samples it prints."""
    return [line.partition("] ")[2] for line in output(capsys, "sample", *argv).splitlines()]


# samplers


@pytest.mark.parametrize("name", MASKED)
def test_samplers_of_states_go_by_their_short_names(name, run, capsys):
    found = texts(capsys, run, "--num", 2, "--prompt", "ab__cd", "--sampler", name)
    assert all(len(text) == 16 and text[:2] + text[4:6] == "abcd" and "_" not in text for text in found)


def test_a_samplers_own_number_of_steps_is_taken_and_its_calls_are_counted(run, capsys):
    said = told(capsys, "sample", run, "--num", 3, "--sampler", "FirstHitting")
    assert said == "3 samples: 16.0 network calls each (16 passes)\n"
    said = told(capsys, "sample", run, "--num", 2, "--sampler", "EntropyBounded", "--steps", 8)
    assert re.match(r"2 samples: [\d.]+ network calls each", said)  # the steps say nothing
    said = told(capsys, "sample", run, "--num", 1, "--steps", 1)
    assert said == "1 sample, 1 step: 1.0 network calls each (1 pass)\n"
    model = DiffusionModel.from_pretrained(run).eval()
    calls = model.draw(3, seed=0).calls.double().mean()
    assert f"3 samples, 20 steps: {calls:.1f} network calls" in told(capsys, "sample", run, "--num", 3)


def test_a_sampler_that_does_not_fit_the_kernel_says_which_it_serves(uniform, capsys):
    line = refusal(capsys, "sample", uniform, "--sampler", "FirstHitting")
    assert "FirstHitting" in line
    assert "UniformTransition" in line
    assert "--sampler.fractional" not in line


# what is given


@pytest.mark.parametrize("sampler", ["FirstHitting", "Ancestral"])
def test_a_template_is_filled_to_the_letter(sampler, run, tmp_path, capsys):
    template = "th_ _ask o_"
    options = ["--num", 6, "--infill", template, "--sampler", sampler, "--output", tmp_path / sampler]
    said = told(capsys, "sample", run, *options)
    for text in (tmp_path / sampler).read_text().splitlines():
        assert re.fullmatch(template.replace("_", "[a-z ]"), text)
    if sampler == "FirstHitting":
        assert "3.0 network calls each" in said  # one for each blank, none for what is given


def test_spaces_beside_each_other_are_printed_as_they_are(run, capsys):
    for text in texts(capsys, run, "--infill", "a   _   b"):
        assert re.fullmatch("a   [a-z ]   b", text)


def test_a_pattern_is_held_and_what_it_leaves_no_choice_about_is_known(run, tmp_path, capsys):
    options = ["--num", 40, "--pattern", "[abc]{3} the [^ ]_", "--sampler", "FirstHitting"]
    said = told(capsys, "sample", run, *options, "--temperature", 0.9, "--output", tmp_path / "texts")
    found = (tmp_path / "texts").read_text().splitlines()
    assert all(re.fullmatch("[abc]{3} the [a-z][a-z ]", text) for text in found)
    assert len(set(found)) > 10
    assert "5.0 network calls each" in said


def test_a_pattern_holds_under_any_kernel(uniform, capsys):
    for text in texts(capsys, uniform, "--pattern", "[ab]{4}x_", "--steps", 5):
        assert re.fullmatch("[ab]{4}x[a-z ]", text)


def test_only_the_likeliest_are_drawn(run, capsys):
    one = texts(capsys, run, "--num", 5, "--infill", "the_", "--top-k", 1)
    assert len(set(one)) == 1
    assert one == texts(capsys, run, "--num", 5, "--infill", "the_", "--min-p", 1)
    assert len(set(texts(capsys, run, "--num", 40, "--infill", "the_", "--top-k", 3))) in (2, 3)


# blocks


def test_a_text_longer_than_training_is_drawn_block_by_block(run, tmp_path, capsys):
    options = ["--num", 3, "--prompt", "the law_of noise is", "--length", 50, "--sampler", "FirstHitting"]
    said = told(
        capsys, "sample", run, *options, "--block", 4, "--batch-size", 2, "--output", tmp_path / "texts"
    )
    for text in (tmp_path / "texts").read_text().splitlines():
        assert re.match("the law[a-z ]of noise is", text)
        assert len(text) == 50
    assert f"{1 + 50 - 19}.0 network calls each" in said
    assert [len(text) for text in texts(capsys, run, "--length", 40, "--steps", 2)] == [40] * 4
    assert [len(text) for text in texts(capsys, run, "--length", 9, "--steps", 2)] == [9] * 4


def test_a_block_that_holds_the_whole_text_is_refused(run, capsys):
    line = refusal(capsys, "sample", run, "--block", 4)
    assert "--block is 4, but beside a --context of 12 it holds the whole text of 16 symbols" in line
    assert "give a smaller --context, or a --length above 16" in line
    assert len(texts(capsys, run, "--num", 1, "--steps", 2, "--block", 4, "--context", 3)[0]) == 16


def test_equal_seeds_give_equal_blocks(run, capsys):
    options = ["--length", 30, "--steps", 3, "--num", 3, "--seed"]
    assert (
        texts(capsys, run, *options, 1) == texts(capsys, run, *options, 1) != texts(capsys, run, *options, 2)
    )


# guidance


def test_a_prompt_guides_a_model_without_classes(run, capsys):
    options = ["--infill", "the m___ of law", "--steps", 8]
    plain, guided = (told(capsys, "sample", run, *options, "--guidance", scale) for scale in (1, 3))
    calls = [float(re.search(r"([\d.]+) network", said)[1]) for said in (plain, guided)]
    assert calls[1] > 1.5 * calls[0]


# watching


def test_there_is_something_to_watch_of_a_sampler_that_takes_one_step(run, capsys):
    shown = output(capsys, "sample", run, "--num", 1, "--sampler", "FirstHitting", "--watch")
    assert len([line for line in shown.splitlines() if line.startswith("t = ")]) == 16


def test_what_is_watched_without_a_terminal_ends_in_the_samples(run, tmp_path, capsys):
    """Each sample once: not as the last state, and then again."""
    options = ["sample", run, "--num", 3, "--steps", 4]
    plain = output(capsys, *options, "--batch-size", 2)
    shown = output(capsys, *options, "--batch-size", 2, "--watch")
    assert shown.endswith(f"t = 0\n{plain}")
    assert all(shown.count(line) == 1 for line in plain.splitlines())
    kept = output(capsys, *options, "--watch", "--output", tmp_path / "texts")
    assert kept.count("t = 0\n") == 1
    assert kept.endswith(f"{tmp_path / 'texts'}: 3 texts\n")


def test_blocks_are_watched_as_they_grow(run, capsys):
    shown = output(capsys, "sample", run, "--num", 1, "--steps", 2, "--length", 24, "--block", 4, "--watch")
    lengths = [len(line) - 4 for line in shown.splitlines() if line.startswith("[")]
    assert lengths == [16, 16, 20, 20, 24, 24]


def test_a_terminal_shows_calls_and_what_is_new(run, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    options = ["sample", run, "--num", 2, "--infill", "the____", "--steps", 4, "--seed", 3]
    shown = output(capsys, *options, "--watch", "--batch-size", 1)
    heads = re.findall(r"t = (\d+) +([\d.]+) network calls each", shown)
    assert [int(t) for t, _ in heads] == [15, 10, 5, 0] * 2
    assert heads[0][1] == heads[4][1] == "1.0"  # each batch is counted for itself
    coloured = re.findall(re.escape(NEW) + "(.*?)" + re.escape(PLAIN), shown)
    assert len("".join(coloured)) == 8  # each symbol is new once, and none of the prompt is
    assert NEW not in shown.splitlines()[-1]


def test_colours_take_no_room():
    codec = TextCodec.characters()
    line = marked(codec, codec.encode("abcd"), codec.encode("axxd"))
    assert line == f"a{NEW}bc{PLAIN}d"
    assert wrapped(line, 2) == [f"a{NEW}b", f"c{PLAIN}d"]
    assert wrapped("", 5) == [""]


# being stopped


@pytest.mark.parametrize("more", [[], ["--length", 24]], ids=["at once", "blocks"])
def test_whoever_stops_keeps_the_batches_that_are_done(more, run, tmp_path, capsys, monkeypatch):
    asked, forward = [], Draw.sharpened

    def sharpened(self, network=None):
        inner = forward(self, network)

        def network(x_t, t, **cond):
            asked.append(len(x_t))
            if len(asked) > (5 if not more else 10):
                raise KeyboardInterrupt
            return inner(x_t, t, **cond)

        return network

    monkeypatch.setattr(Draw, "sharpened", sharpened)
    options = ["--num", 12, "--batch-size", 4, "--steps", 2, "--output", tmp_path / "texts", *more]
    assert main(["sample", str(run), *map(str, options)]) == 130
    said = capsys.readouterr().err
    done = len((tmp_path / "texts").read_text().splitlines())
    assert done in (4, 8)
    assert f"stopped: {done} of 12 samples are kept; draw the other {12 - done} with another --seed" in said
    assert f"{done} samples, 2 steps" in said
    assert "Traceback" not in said


def test_whoever_stops_before_the_first_batch_has_nothing(run, tmp_path, capsys, monkeypatch):
    def batches(self, n, **options):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(DiffusionModel, "batches", batches)
    assert main(["sample", str(run), "--output", str(tmp_path / "texts")]) == 130
    assert not (tmp_path / "texts").exists()


def test_what_is_drawn_is_the_same_in_one_go_and_by_batches(run):
    model = DiffusionModel.from_pretrained(run).eval()
    draw = Draw(model, model.network, {"steps": 3, "seed": 1, "batch_size": 2}, [])
    assert torch.equal(drawn(draw, 5).x0, model.sample(5, steps=3, seed=1, batch_size=2))


# mistakes


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ["--infill", "a" * 10 + "_" * 7],
            "--infill has 17 symbols, but the model was trained on 16: shorten it",
        ),
        (["--pattern", "_{17}"], "--pattern has 17 symbols, but the model was trained on 16: shorten it"),
        (["--pattern", "[^a-z ]b"], "a set that leaves no symbol"),
        (["--pattern", "a[bc"], "not closed"),
        (["--pattern", "a_A"], "'A', which the data does not know"),
        (["--pattern", "abc"], "--pattern leaves nothing to fill in"),
        (["--infill", "abc"], "--infill leaves nothing to fill in: write _"),
        (["--infill", ""], "--infill leaves nothing to fill in"),
        (["--infill", "A_"], "unknown symbol 'A'"),
        (["--infill", "a_", "--pattern", "a_"], "--infill and --pattern both say what is given"),
        (["--infill", "a_", "--prompt", "a"], "--prompt and --infill both say what is given"),
        (["--infill", "a_", "--length", "9"], "--length and --infill both say how long"),
        (["--infill", "a_", "--block", "9"], "--block and --infill both say how long"),
        (["--length", "3", "--prompt", "abcd"], "--prompt has 4 symbols, but a sample has 3: shorten it"),
        (["--length", "0"], "--length is 0"),
        (["--steps", "abc"], "--steps is abc: give a number of steps, or falling times such as 1000,500,0"),
        (["--steps", "8.5"], "--steps is 8.5: give a number of steps, or"),
        (["--steps", "8,16"], "--steps is 8,16: give a number of steps, or"),
        (["--steps", "20,5,0", "--grid", "cosine"], "--grid is cosine, but --steps are times already"),
        (["--num", "8.5"], "num is 8.5: give a whole number"),
        (["--seed", "x"], "seed is x: give a whole number"),
        (["--temperature", "warm"], "temperature is warm: give a number"),
        (["--sde", "rk4"], "sde is rk4: give one of 'euler', 'pc', 'ode'"),
        (["--guidance", ".nan", "--prompt", "a"], "--guidance is nan: give a number from -1000 to 1000"),
        (["--guidance", "1e30", "--prompt", "a"], "--guidance is 1e+30: give a number from"),
        (["--guidance", ".inf"], "--guidance is inf: give a number from"),
        (["--prompt", ""], "--prompt is empty: give a text to go on with, or leave it out"),
        (["--infill", "a░"], "--infill holds ░, but the blank of this model is _: write that"),
        (
            ["--pattern", "a{1000000}"],
            "--pattern 'a{1000000}': at position 1 stands a repeat that is too large",
        ),
        (["--pattern", "\\[["], "--pattern '\\[[': at position 0 stands '[', which the data does not know"),
        (["--output", "t.png"], "--output t.png: this model draws text, so end the name in .txt"),
        (["--output", "t.csv"], "--output t.csv: this model draws text, so end the name in .txt"),
        (["--block", "16"], "--block is 16, but the model was trained on 16 symbols: choose 1 … 15"),
        (["--length", "40", "--block", "0"], "--block is 0"),
        (["--context", "3"], "--context is 3, but nothing is drawn block by block: give --block"),
        (["--length", "40", "--block", "8", "--context", "9"], "--context is 9: beside a block of 8"),
        (["--top-k", "0"], "top_k is 0"),
        (["--min-p", "2"], "min_p is 2"),
        (["--guidance", "2"], "there is no class to guide to, and no prompt"),
        (["--guidance", "2", "--pattern", "[ab]_"], "no symbol is given that could guide"),
        (["--guidance", "2", "--prompt", "a", "--length", "30"], "--guidance to a prompt and --block"),
        (["--guidance", "2", "--prompt", "a", "--rescale", "1"], "a prompt guides without it"),
        (["--mask", "m.png"], "--mask is for pictures, but this model draws text"),
        (["--inpaint", "m.png"], "--inpaint is for pictures, but this model draws text"),
        (["--sampler", "FirstHitting", "--steps", "21"], "steps is 21"),
        (["--sampler", "FirstHiting"], "there is no class FirstHiting"),
        (["--sampler", "FirstHitting", "--sampler.fractionl", "1"], "did you mean fractional"),
    ],
)
def test_what_sample_refuses(run, capsys, options, reason):
    assert reason in refusal(capsys, "sample", run, *options)


def test_a_kernel_without_a_mask_has_no_guidance_to_a_prompt(uniform, capsys):
    line = refusal(capsys, "sample", uniform, "--prompt", "a", "--guidance", "2")
    assert "--guidance is 2.0" in line
    assert "UniformTransition: leave --guidance at 1" in line


def test_times_are_given_with_or_without_brackets(run, capsys):
    options = [run, "--num", 2, "--seed", 4]
    assert texts(capsys, *options, "--steps", "20,7,0") == texts(capsys, *options, "--steps=[20, 7, 0]")
    assert "2 steps" in told(capsys, "sample", run, "--num", 1, "--steps", "20,7,0")


def test_a_sampler_that_is_none_is_answered_with_those_there_are(run, capsys):
    for options in (["--sampler", "Nonsense"], ["--sampler.eta", "0.2"]):
        for verb in (["sample", run], ["evaluate", run, "--samples", 2]):
            line = refusal(capsys, *verb, *options)
            assert "--sampler" in line
            assert "(samplers: Ancestral, CategoricalDDIM, Confidence," in line
            assert "ClassifierGuided" not in line
    line = refusal(capsys, "sample", run, "--sampler", "ClassifierGuided")
    assert "--sampler is ClassifierGuided" in line
    assert line.endswith("give --classifier RUN instead")


def test_options_stand_in_groups(capsys):
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    shown = capsys.readouterr().out
    for title in ("samples:", "steps:", "classes and guidance:", "texts:", "pictures:", "tables:"):
        assert f"\n{title}\n" in shown
