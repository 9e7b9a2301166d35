"""The command line, verb by verb, on one tiny run."""

import hashlib
import json
import math
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny import WORDS, train, write_config

from d3pm.cli import main
from d3pm.cli.forms import Draw
from d3pm.cli.screen import Screen
from d3pm.data import TextCodec, TextData
from d3pm.data.normalize import TEXT8_ALPHABET
from d3pm.discrete.truncation import Truncated
from d3pm.model import DiffusionModel
from d3pm.training import RunFolder
from d3pm.training.checkpoint import ESSENTIAL, MANIFEST, seal
from d3pm.transitions import MatrixTransition


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def run(config):
    folder = config.parent / "run"
    assert train(config, folder) == 0
    return folder


def output(capsys, *argv):
    """What a command prints, where it succeeds."""
    capsys.readouterr()
    assert main([str(arg) for arg in argv]) == 0
    return capsys.readouterr().out


def refusal(capsys, *argv):
    """The one line with which a command refuses."""
    capsys.readouterr()
    assert main([str(arg) for arg in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(f"d3pm {argv[0]}: error: ")
    return line


def fingerprint(folder: Path):
    return {
        file.relative_to(folder): hashlib.sha256(file.read_bytes()).digest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_stop_while_libraries_are_imported_is_quiet(monkeypatch):
    handlers = []
    monkeypatch.setattr(
        "importlib.import_module", lambda name: handlers.append(signal.getsignal(signal.SIGINT))
    )
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(AttributeError):  # None has no `main`
        main(["schedule"])
    assert handlers == [signal.SIG_DFL]
    assert signal.getsignal(signal.SIGINT) is before


# train


def test_a_run_leaves_a_model_its_config_and_its_last_checkpoints(run):
    assert RunFolder(run).checkpoint_steps() == [8, 12]
    model = DiffusionModel.from_pretrained(run)
    assert model.shape == (16,)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert list(settings) == ["data", "process", "network", "objective", "training"]
    assert settings["training"]["bf16"] is None
    assert settings["network"]["init_args"]["mlp_ratio"] == 4.0


def test_the_model_kept_is_the_last_checkpoint_and_not_the_raw_weights(run):
    folder = RunFolder(run)
    kept = DiffusionModel.from_pretrained(run).state_dict()
    last = DiffusionModel.from_pretrained(folder.checkpoint(12)).state_dict()
    raw = torch.load(folder.checkpoint(12) / "raw_weights.pt", weights_only=True)
    assert all(torch.equal(kept[name], last[name]) for name in kept)
    assert not torch.equal(kept["network.embedding.weight"], raw["network.embedding.weight"])


def test_overrides_and_the_whole_config_on_one_line(config, capsys):
    with pytest.raises(SystemExit) as end:
        main(
            [
                "train",
                "--config",
                str(config),
                "--network.dim",
                "32",
                "--training.max-steps=7",
                "--print_config",
            ]
        )
    assert end.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["network"]["init_args"]["dim"] == 32
    assert printed["training"]["max_steps"] == 7


def test_tensorboard_curves_hold_the_bound(config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert (
        train(config, tmp_path / "run", "--training.report_to", "[tensorboard]", "--training.max_steps", "4")
        == 0
    )
    curves = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    assert {"eval/bits_per_dim", "train/loss", "train/tokens_per_second"} <= set(curves.Tags()["scalars"])


def test_overwriting_starts_afresh(config, tmp_path):
    assert train(config, tmp_path / "run", "--training.max_steps", "4") == 0
    assert train(config, tmp_path / "run", "--training.max_steps", "2", "--overwrite") == 0
    assert RunFolder(tmp_path / "run").checkpoint_steps() == [2]


BAD_CONFIGS = {
    "no such key": (["--training.learning_rat", "1"], "did you mean training.learning_rate"),
    "no such argument": (["--network.dimm", "32"], "did you mean dim"),
    "no such class": (["--process.transition", "d3pm.transitions.Absorbing"], "d3pm.transitions.Absorbing"),
    "no such choice": (["--training.lr_schedule", "cosin"], "'cosine'"),
    "no number": (["--training.max_steps", "many"], "training.max_steps"),
    "K of the kernel": (
        ["--process.transition.num_states", "27", "--network.num_states", "27"],
        "set num_states to 28",
    ),
    "K of the network": (["--network.num_states", "27"], "network.num_states is 27"),
    "mask among the data": (["--process.transition.mask_index", "1"], "mask_index is 1"),
    "no steps": (["--training.max_steps", "0"], "training.max_steps is 0"),
    "batch beyond the data": (["--training.batch_size", "1000"], "training.batch_size is 1000"),
    "block beyond the data": (["--data.block_size", "101"], "block"),
    "no such text": (["--data.source", "./nowhere.txt"], "nowhere.txt"),
    "contradiction": (["--resume"], "contradict"),
    "no time": (["--process.transition.num_steps", "0"], "num_steps is 0"),
    "mask beyond the states": (["--process.transition.mask_index", "99"], "mask_index is 99"),
    "heads that do not divide": (["--network.heads", "3"], "heads=3"),
    "no length": (["--data.block_size", "0"], "block_size: 0"),
    "too few steps": (
        [
            "--process.transition.schedule=LinearSchedule",
            "--process.transition.num_steps=10",
        ],
        "LinearSchedule at num_steps=10",
    ),
    "no such matrices": (
        ["--process.transition=MatrixTransition", "--process.transition.matrices=/no/q.npy"],
        "matrices: there is no file /no/q.npy",
    ),
    "beta above one": (
        ["--process.transition.schedule=CosineSchedule", "--process.transition.schedule.max_beta=2"],
        "max_beta",
    ),
    "a constructor that fails": (
        ["--network=torch.nn.Linear", "--network.in_features=-1", "--network.out_features=1"],
        "negative dimension -1",
    ),
    "no such tracker": (["--training.report_to", "[foo]"], "training.report_to names foo: choose from"),
}
if not torch.cuda.is_available():
    BAD_CONFIGS["bf16 on a CPU"] = (["--training.bf16", "true"], "training.bf16 is true")


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_bad_config_is_one_line_and_touches_nothing(case, config, run, capsys):
    options, reason = BAD_CONFIGS[case]
    before = fingerprint(run)
    line = refusal(capsys, "train", "--config", config, "--output", run, "--overwrite", *options)
    assert reason in line
    assert fingerprint(run) == before


def test_rows_that_are_no_laws_are_one_line(config, tmp_path, capsys):
    np.save(tmp_path / "q.npy", np.full((20, 28, 28), 0.5))
    kernel = ["--process.transition=MatrixTransition", f"--process.transition.matrices={tmp_path / 'q.npy'}"]
    line = refusal(capsys, "train", "--config", config, "--output", tmp_path / "run", *kernel)
    assert "row" in line
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_folder_is_named_after_its_config(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", str(config), "--training.max_steps", "2"]) == 0
    assert RunFolder("runs/tiny").finished
    assert "the run is kept in runs/tiny" in capsys.readouterr().err
    settings = yaml.safe_load(config.read_text())
    options = [f"--{key}={json.dumps(settings[key])}" for key in ("data", "process", "network", "objective")]
    assert "--output" in refusal(capsys, "train", *options)


def test_a_misspelt_key_in_a_file_is_named(config, tmp_path, capsys):
    settings = yaml.safe_load(config.read_text())
    settings["training"]["batchsize"] = 3
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(settings))
    line = refusal(capsys, "train", "--config", tmp_path / "bad.yaml", "--output", tmp_path / "run")
    assert "did you mean training.batch_size" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "remedy"),
    [("data: [", ""), ("3", "name a YAML file"), ("\x00", ""), ("", "name a YAML file")],
    ids=["no YAML", "no keys", "binary", "empty"],
)
def test_a_file_that_is_no_config_is_refused(text, remedy, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text(text)
    line = refusal(capsys, "train", "--config", tmp_path / "bad.yaml", "--output", tmp_path / "run")
    assert remedy in line


def test_a_missing_config_is_named(tmp_path, capsys):
    assert "none.yaml" in refusal(
        capsys, "train", "--config", tmp_path / "none.yaml", "--output", tmp_path / "run"
    )


def test_a_used_folder_is_refused(config, run, capsys):
    before = fingerprint(run)
    line = refusal(capsys, "train", "--config", config, "--output", run)
    assert "--resume" in line
    assert "--overwrite" in line
    assert fingerprint(run) == before


@pytest.mark.parametrize(
    ("options", "field", "new", "old"),
    [
        (["--network.dim", "32"], "network.init_args.dim", 32, 16),
        (["--process.transition.num_steps", "9"], "process.init_args.transition.init_args.num_steps", 9, 20),
        (["--training.learning_rate", "1"], "training.learning_rate", 1.0, 0.01),
    ],
)
def test_another_config_cannot_resume(config, run, capsys, options, field, new, old):
    before = fingerprint(run)
    line = refusal(capsys, "train", "--config", config, "--output", run, "--resume", *options)
    assert f"{field} is {new}, but the run to resume has {old}" in line
    assert fingerprint(run) == before


def test_every_key_that_differs_is_named(config, run, capsys):
    options = [
        "--network.dim",
        "32",
        "--network.depth=2",
        "--training.batch_size",
        "8",
        "--training.max_steps=99",
    ]
    line = refusal(capsys, "train", "--config", config, "--output", run, "--resume", *options)
    assert re.findall(r"(\S+) is (\S+), but the run to resume has (\w+)", line) == [
        ("network.init_args.depth", "2", "1"),
        ("network.init_args.dim", "32", "16"),
        ("training.batch_size", "8", "16"),
    ]


def test_a_run_from_before_a_setting_existed_goes_on(config, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    assert train(config, folder.path, "--training.max_steps", "2") == 0
    old = yaml.safe_load(folder.config_file.read_text())
    assert old["training"].pop("max_grad_norm") == 1.0
    assert old["network"]["init_args"].pop("mlp_ratio") == 4.0
    folder.config_file.write_text(yaml.safe_dump(old))
    options = ["--resume", "--training.max_steps=3"]
    assert train(config, folder.path, *options) == 0
    line = refusal(
        capsys, "train", "--config", config, "--output", folder.path, "--network.mlp_ratio=2", *options
    )
    assert "network.init_args.mlp_ratio is 2.0, but the run to resume has 4.0: give the old value, or" in line


def test_a_run_to_resume_must_be_there_unless_asked_otherwise(config, tmp_path, capsys):
    command = ["train", "--config", config, "--output", tmp_path / "run", "--training.max_steps"]
    line = refusal(capsys, *command, "2", "--resume")
    assert "holds no run to resume" in line
    assert "--resume auto" in line
    assert not (tmp_path / "run").exists()
    for steps in (2, 4):
        assert main([str(word) for word in [*command, steps, "--resume", "auto"]]) == 0
    assert RunFolder(tmp_path / "run").checkpoint_steps() == [2, 4]


@pytest.mark.parametrize("verb", ["resume", "evaluate"])
def test_another_tokenizer_of_as_many_symbols_is_refused(verb, config, run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    other = TextCodec.characters(TEXT8_ALPHABET[::-1])
    for place in (folder.path, folder.checkpoint(12)):
        other.save_pretrained(place)
    seal(folder.checkpoint(12))  # it was written so
    resume = ["train", "--config", config, "--output", folder.path, "--resume"]
    argv = resume if verb == "resume" else ["evaluate", folder.path]
    assert "tokenizer is not" in refusal(capsys, *argv)


def test_an_unreadable_checkpoint_is_named(config, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    assert train(config, folder.path, "--training.max_steps", "4") == 0
    (folder.checkpoint(4) / "raw_weights.pt").write_bytes(b"torn")
    capsys.readouterr()
    for reason in ("checkpoint-4: raw_weights.pt has 4 bytes instead of", "checkpoint-4 cannot be read"):
        assert train(config, folder.path, "--resume") == 2
        assert reason in capsys.readouterr().err.splitlines()[-1]
        (folder.checkpoint(4) / MANIFEST).unlink(missing_ok=True)  # as it was before there were manifests


# sample


def test_equal_seeds_give_equal_samples(run, capsys):
    first, again, other = (
        output(capsys, "sample", run, "--num", 3, "--steps", 5, "--seed", seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(first.splitlines()) == 3


def test_samples_go_to_a_file(run, tmp_path, capsys):
    argv = [
        "--num",
        2,
        "--grid",
        "cosine",
        "--temperature",
        0.7,
        "--top-p",
        0.9,
        "--output",
        tmp_path / "texts",
    ]
    assert output(capsys, "sample", run, *argv) == f"{tmp_path / 'texts'}: 2 texts\n"
    assert [len(line) for line in (tmp_path / "texts").read_text().splitlines()] == [16, 16]


def test_a_sample_is_one_line_whatever_it_holds(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("d3pm.data.TextCodec.decode", lambda self, x: ["a\nb  c\r\n"] * len(x))
    output(capsys, "sample", run, "--num", 2, "--steps", 1, "--output", tmp_path / "texts")
    assert (tmp_path / "texts").read_text() == "a b  c\n" * 2


def test_the_network_is_wrapped_only_to_sharpen_it(run):
    model = DiffusionModel.from_pretrained(run)
    assert Draw(model, model.network, {}, []).sharpened() is model.network
    assert isinstance(Draw(model, model.network, {}, [], {"top_p": 0.9}).sharpened(), Truncated)


def test_an_output_that_cannot_be_written_is_refused_before_drawing(run, tmp_path, capsys, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("drawn in vain")

    monkeypatch.setattr(DiffusionModel, "batches", never)
    assert "is a folder" in refusal(capsys, "sample", run, "--output", tmp_path)
    (tmp_path / "texts").write_text("old")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "may not be written" in refusal(capsys, "sample", run, "--output", tmp_path / "texts")
    assert (tmp_path / "texts").read_text() == "old"


def test_a_prompt_stays_and_its_blanks_are_filled(run, tmp_path, capsys):
    for file in ("texts", "more"):
        output(capsys, "sample", run, "--num", 5, "--prompt", "ab__cd", "--output", tmp_path / file)
    for text in (tmp_path / "texts").read_text().splitlines():
        assert text[:2] + text[4:6] == "abcd"
        assert "_" not in text
        assert len(text) == 16


def test_watching_shows_every_step(run, capsys):
    shown = output(capsys, "sample", run, "--num", 1, "--steps", 4, "--watch")
    assert [line for line in shown.splitlines() if line.startswith("t = ")] == [
        "t = 15",
        "t = 10",
        "t = 5",
        "t = 0",
    ]
    assert shown.splitlines()[1].count("_") > 0


def test_a_terminal_is_redrawn_in_place(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "10")
    screen = Screen(sys.stdout)
    screen.show("x" * 25)
    screen.show("done")
    assert capsys.readouterr().out == f"{'x' * 10}\n{'x' * 10}\n{'x' * 5}\n\x1b[3A\x1b[Jdone\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--num", "0"], "--num is 0"),
        (["--batch-size", "0"], "--batch_size is 0"),
        (["--steps", "21"], "steps is 21"),
        (["--temperature", "0"], "temperature is 0"),
        (["--top-p", "2"], "top_p is 2"),
        (["--prompt", "ABC"], "'A'"),
        (["--prompt", "a" * 17], "--prompt has 17 symbols"),
        (["--grid", "square"], "grid"),
        (["--output", "/no/such/folder/file"], "/no/such/folder"),
        (["--seeds", "3"], "did you mean seed"),
        (["--each", "folder"], "--each is for pictures, but this model draws text"),
        (["--strip", "strip.png"], "--strip is for pictures"),
        (["--walk", "walk.gif"], "--walk is for pictures"),
        (["--label", "3"], "the model has no classes"),
        (["--guidance", "2"], "there is no class to guide to"),
        (["--sde", "ode"], "the process is a DiscreteDiffusion"),
        (["--sampler", "Ancestrall"], "there is no class Ancestrall"),
    ],
)
def test_what_sample_refuses(run, capsys, options, reason):
    assert reason in refusal(capsys, "sample", run, *options)


# evaluate


def test_evaluate_prints_every_term(run, capsys):
    report = json.loads(output(capsys, "evaluate", run, "--json", "--num-times", 30, "--split", "validation"))
    assert report["num_times"] == 19  # every term, where T = 20
    assert report["num_examples"] == 6
    assert report["prior"] == 0.0
    parts = report["prior"] + report["diffusion"] + report["reconstruction"]
    assert report["bits_per_dim"] == pytest.approx(parts)
    assert 0 < report["standard_error"] < 1
    table = output(capsys, "evaluate", run, "--num-times", 30, "--split", "validation")
    assert f"{report['bits_per_dim']:.4f} ± {report['standard_error']:.4f} bits/char" in table


def test_the_table_of_a_text_has_the_terms_and_no_distortion(run, tmp_path, capsys):
    options = ["--num-examples", 5, "--table", tmp_path / "t.csv", "--plot", tmp_path / "t.png", "--json"]
    report = json.loads(output(capsys, "evaluate", run, *options))
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0] == "t,bits_per_dim,rate"
    assert len(lines) == 1 + 20
    terms = [float(line.split(",")[1]) for line in lines[1:]]
    assert report["prior"] + sum(terms) == pytest.approx(report["bits_per_dim"], rel=1e-4)
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_a_number_that_is_none_is_null_in_json(run, capsys, monkeypatch):
    monkeypatch.setattr("d3pm.cli.evaluate.unigram_entropy", lambda *args: math.nan)
    printed = output(capsys, "evaluate", run, "--json", "--num-examples", 2)
    assert json.loads(printed, parse_constant=pytest.fail)["unigram_entropy"] is None


def test_the_entropy_beside_it_is_that_of_the_split(run, config, capsys):
    report = json.loads(output(capsys, "evaluate", run, "--json", "--split", "train"))
    source = yaml.safe_load(config.read_text())["data"]["init_args"]
    text = TextData(**source).split("train").tokens[: 112 * 16]
    p = np.bincount(text, minlength=27) / len(text)
    entropy = -sum(x * math.log2(x) for x in p if x > 0)
    assert report["unigram_entropy"] == pytest.approx(entropy)


def test_a_checkpoint_is_a_model_too(run, capsys):
    checkpoint = RunFolder(run).checkpoint(12)
    ours, its = (output(capsys, "evaluate", path, "--json") for path in (run, checkpoint))
    assert json.loads(ours) == json.loads(its)
    assert output(capsys, "sample", checkpoint, "--num", 1) == output(capsys, "sample", run, "--num", 1)


def test_other_data_can_be_evaluated_if_it_fits(run, tmp_path, capsys):
    (tmp_path / "other.txt").write_text(" ".join(WORDS * 40))
    options = ["--data", "d3pm.data.TextData", f"--data.source={tmp_path / 'other.txt'}"]
    options += [f"--data.cache_dir={tmp_path / 'cache'}"]
    assert "bits/char" in output(capsys, "evaluate", run, *options, "--data.block_size=16")
    line = refusal(capsys, "evaluate", run, *options, "--data.block_size=8")
    assert "27 symbols in shape (8,)" in line


@pytest.mark.parametrize(
    "options", [["--num-times", "0"], ["--num-examples", "0"], ["--split", "dev"], ["--batch-size", "0"]]
)
def test_what_evaluate_refuses(run, capsys, options):
    refusal(capsys, "evaluate", run, *options)


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
def test_a_missing_model_is_explained(verb, run, tmp_path, capsys):
    assert "does not exist" in refusal(capsys, verb, tmp_path / "nowhere")
    assert "holds no model" in refusal(capsys, verb, tmp_path)
    unfinished = RunFolder(tmp_path / "run")
    unfinished.checkpoint(4).mkdir(parents=True)
    for name in ESSENTIAL:
        (unfinished.checkpoint(4) / name).write_text("")
    line = refusal(capsys, verb, unfinished.path)
    assert unfinished.resume_command in line
    assert str(unfinished.checkpoint(4)) in line


@pytest.mark.parametrize(
    ("file", "content"), [("model.safetensors", b"torn"), ("model.safetensors", None), ("config.json", b"{")]
)
def test_a_damaged_model_is_one_line(run, tmp_path, capsys, file, content):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / file).unlink()
    if content is not None:
        (tmp_path / "run" / file).write_bytes(content)
    assert "cannot be read" in refusal(capsys, "sample", tmp_path / "run")


# transition


def test_transition_prints_matrices_and_mixing(capsys):
    shown = output(capsys, "transition", "absorbing", "--num-states", 3, "--num-steps", 4, "--t", 3)
    assert "Q_3 =\n0.5000  0.0000  0.5000\n" in shown
    assert "Qbar_3 =\n0.2500  0.0000  0.7500\n" in shown
    rows = [line.split() for line in shown.partition("H(x_0)\n")[2].splitlines()]
    falling = ["1.000000", "0.750000", "0.500000", "0.250000", "0.000000"]
    assert rows == [
        [str(t), share, share] for t, share in enumerate(falling)
    ]  # what is kept is what is known


def test_a_saved_or_drawn_kernel_is_not_overwritten(tmp_path, capsys):
    for option, name in (("--save", "q.safetensors"), ("--plot", "q.png")):
        (tmp_path / name).write_text("mine")
        options = ["transition", "uniform", "--num-states=2", "--num-steps=3", f"{option}={tmp_path / name}"]
        assert f"{option} {tmp_path / name} exists" in refusal(capsys, *options)
        assert (tmp_path / name).read_text() == "mine"
        output(capsys, *options, "--overwrite")


def test_what_is_left_depends_on_the_data(capsys):
    options = ["--num-states", 3, "--num-steps", 4]
    plain = output(capsys, "transition", "discretized-gaussian", *options, "--schedule", "ReciprocalSchedule")
    skewed = output(
        capsys,
        "transition",
        "discretized_gaussian",
        *options,
        "--schedule=ReciprocalSchedule",
        "--unigram=[0.9,0,0.1]",
    )
    assert plain != skewed
    assert plain.partition("pi =")[0] == skewed.partition("pi =")[0]


@pytest.mark.parametrize("law", ["[0.5,0.5]", "[0.5,0.5,0.5]", "[1.5,-0.5,0]"])
def test_a_law_of_the_data_that_is_none_is_one_line(capsys, law):
    options = ["--num-states=3", "--num-steps=4", f"--unigram={law}"]
    assert "--unigram" in refusal(capsys, "transition", "uniform", *options)


def test_a_saved_kernel_is_a_kernel(tmp_path, capsys):
    file = tmp_path / "q.safetensors"
    options = ["--num-states=4", "--num-steps=6", "--schedule=CosineSchedule", f"--save={file}"]
    shown = output(capsys, "transition", "uniform", *options, f"--plot={tmp_path / 'q.png'}")
    kernel = MatrixTransition(file)
    assert (kernel.num_steps, kernel.num_states) == (6, 4)
    again = output(capsys, "transition", "matrix", f"--matrices={file}")
    assert again.partition("Q_3 =")[2] in shown
    assert (tmp_path / "q.png").read_bytes().startswith(b"\x89PNG")


def test_a_kernel_by_class_path_and_with_other_arguments(capsys):
    by_path = output(
        capsys, "transition", "d3pm.transitions.UniformTransition", "--num-states=3", "--num-steps=2"
    )
    by_name = output(capsys, "transition", "uniform", "--num-states=3", "--num-steps=2")
    assert by_path == by_name
    assert "pi = 0.2500  0.7500" in output(
        capsys, "transition", "marginal", "--frequencies=[0.25, 0.75]", "--num-steps=2"
    )


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["absorbin"], "did you mean absorbing"),
        (["absorbing", "--num-states=3"], "num_steps"),
        (["absorbing", "--num-states=3", "--num-step=3"], "did you mean num_steps"),
        (["uniform", "--num-states=1", "--num-steps=3"], "num_states is 1"),
        (["uniform", "--num-states=3", "--num-steps=3", "--t=4"], "--t is 4"),
        (["uniform", "--num-states=3", "--num-steps=3", "--schedule=Cosin"], "Cosin"),
        (["uniform", "--num-states=3", "--num-steps=3", "--save=/no/folder/x.safetensors"], "/no/folder"),
        (["uniform", "--num-states=3", "--num-steps=3", "--plot=x.doc"], "x.doc"),
        (["uniform", "--num-states=50000", "--num-steps=3"], "GiB"),
        (["matrix", "--matrices=/no/file.npy"], "/no/file.npy"),
        ([], "kernel"),
    ],
)
def test_what_transition_refuses(capsys, argv, reason):
    assert reason in refusal(capsys, "transition", *argv)


def test_a_kernel_that_cannot_be_saved_is_one_line(tmp_path, capsys):
    (tmp_path / "q.safetensors").mkdir()
    options = ["--num-states=3", "--num-steps=3", f"--save={tmp_path / 'q.safetensors'}"]
    assert main(["transition", "uniform", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a folder" in line


# all verbs


def test_a_failing_file_system_is_one_line(config, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = refusal(capsys, "train", "--config", config, "--output", tmp_path / "file" / "run")
    assert str(tmp_path / "file") in line
    line = refusal(capsys, "transition", "matrix", f"--matrices={tmp_path}")
    assert str(tmp_path) in line


@pytest.mark.parametrize(
    "verb", ["train", "sample", "evaluate", "plan-steps", "demo", "transition", "schedule"]
)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: d3pm {verb}" in shown
    assert ":math:" not in shown


def test_an_unknown_verb_is_refused(capsys):
    assert "did you mean train" in refusal(capsys, "trian")


def test_help_is_quick_because_it_imports_little():
    code = "import sys; from d3pm.cli import main; main(['--help']); "
    code += (
        "heavy = {'transformers', 'jsonargparse', 'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_texts_that_are_there_are_not_overwritten(run, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    options = ["sample", run, "--num=1", "--steps=2", f"--output={tmp_path / 'mine.txt'}"]
    assert "--overwrite" in refusal(capsys, *options)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    output(capsys, *options, "--overwrite")
    assert (tmp_path / "mine.txt").read_text() != "mine"
