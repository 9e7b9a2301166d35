"""Training on a stream: the same in one process and in two, and across a stop, without reading it from the start."""

import json
import random
from pathlib import Path

import pytest
import torch
import yaml
from processes import Nothing, together
from tiny import train, write_config
from torch.testing import assert_close

from d3pm.data import StreamedText
from d3pm.discrete.process import DiscreteDiffusion
from d3pm.model import DiffusionModel
from d3pm.networks import TransformerDenoiser
from d3pm.training import RunFolder, TrainingConfig
from d3pm.transitions import AbsorbingTransition

STEPS, HALF = 12, 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    rng = random.Random(0)
    for shard in range(4):
        lines = [
            " ".join(rng.choices(["the", "mask", "is", "noise", "and", "a", "law"], k=rng.randint(1, 9)))
            for _ in range(150)
        ]
        (folder / f"part{shard}.txt").write_text("\n".join(lines))
    return folder


def run(folder, shards, max_steps=STEPS, dropout=0.0, documents="packed", **settings):
    """Train a tiny model on the stream; write its weights and the rows that this process saw."""
    from d3pm.training.trainer import DiffusionTrainer

    torch.manual_seed(0)
    options = {"block_size": 40, "normalize": "text8", "lanes": 4, "shuffle": 8, "held_out": 4}
    data = StreamedText(str(shards), documents=documents, **options)
    network = TransformerDenoiser(num_states=28, dim=16, depth=1, heads=2, dropout=dropout).double()
    process = DiscreteDiffusion(AbsorbingTransition(num_states=28, num_steps=10))
    model = DiffusionModel(process=process, network=network, codec=data.codec, shape=data.shape)
    wanted = {
        "max_steps": max_steps,
        "batch_size": 16,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "log_every": 1,
    }
    wanted |= {"save_every": HALF, "eval_every": 10**6, "report_to": [], "lr_schedule": "constant"}
    trainer = DiffusionTrainer(
        model,
        TrainingConfig(**(wanted | settings)),
        RunFolder(folder),
        data.split("train"),
        lambda model: Nothing(),
    )
    seen, training_step = [], trainer.training_step

    def watched(model, inputs, *args, **kwargs):
        seen.append(inputs["x0"].clone())
        return training_step(model, inputs, *args, **kwargs)

    trainer.training_step = watched
    assert trainer.fit()
    end = {
        "weights": model.network.state_dict(),
        "average": trainer.ema.model.network.state_dict(),
        "seen": seen,
    }
    torch.save(end, folder / f"end-{trainer.args.process_index}.pt")


def stopped(folder, shards, **settings):
    """A run that ended half-way, taken up again."""
    run(folder, shards, max_steps=HALF, **settings)
    (folder / "config.json").unlink(missing_ok=True)


def alone(folder: Path, shards: Path) -> None:
    run(folder / "straight", shards, dropout=0.1)
    stopped(folder / "halves", shards, dropout=0.1)
    run(folder / "halves", shards, dropout=0.1)
    run(folder / "micro", shards, micro_batch_size=4)
    run(folder / "plain", shards)
    run(folder / "whole", shards, documents="whole")


def pair(folder: Path, shards: Path) -> None:
    run(folder / "pair", shards)
    run(folder / "pair-whole", shards, documents="whole", micro_batch_size=4)
    run(folder / "then-one", shards, max_steps=HALF)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("runs")
    together(1, alone, folder, shards)
    together(2, pair, folder, shards)
    together(1, run, folder / "then-one", shards)
    return folder


def end(folder, process=0):
    return torch.load(folder / f"end-{process}.pt", weights_only=True)


def losses(folder):
    history = json.loads((RunFolder(folder).checkpoint(STEPS) / "trainer_state.json").read_text())[
        "log_history"
    ]
    return torch.tensor([entry["loss"] for entry in history if "loss" in entry], dtype=torch.float64)


def test_a_stopped_run_goes_on_with_the_next_row(runs):
    straight, halves = end(runs / "straight"), end(runs / "halves")
    assert len(halves["seen"]) == STEPS - HALF
    assert all(map(torch.equal, straight["seen"][HALF:], halves["seen"]))
    for part in ("weights", "average"):
        assert all(torch.equal(straight[part][name], halves[part][name]) for name in straight[part])
    assert torch.equal(losses(runs / "straight"), losses(runs / "halves"))


def test_every_process_says_where_its_lanes_stand(runs):
    for process in range(2):
        record = json.loads(
            (RunFolder(runs / "pair").checkpoint(HALF) / f"data_position_{process}.json").read_text()
        )
        assert record["shards"] == 4
        assert set(record["lanes"]) == {str(2 * process), str(2 * process + 1)}


@pytest.mark.parametrize(
    ("one", "other"), [("plain", "micro"), ("plain", "pair"), ("whole", "pair-whole"), ("plain", "then-one")]
)
def test_processes_and_micro_batches_do_not_matter(runs, one, other):
    assert_close(losses(runs / one), losses(runs / other), rtol=1e-5, atol=1e-5)
    for part in ("weights", "average"):
        assert_close(end(runs / one)[part], end(runs / other)[part], rtol=1e-4, atol=1e-4)


def test_two_processes_see_each_row_once(runs):
    both = [end(runs / "pair", process)["seen"] for process in range(2)]
    whole = end(runs / "plain")["seen"]
    assert all(torch.equal(torch.cat(parts), rows) for *parts, rows in zip(*both, whole, strict=True))


def streaming_config(folder, shards, **options):
    config = write_config(folder)
    settings = yaml.safe_load(config.read_text())
    given = {
        "source": str(shards),
        "block_size": 16,
        "normalize": "text8",
        "lanes": 4,
        "shuffle": 8,
        "held_out": 8,
    }
    settings["data"] = {"class_path": "d3pm.data.StreamedText", "init_args": given | options}
    config.write_text(yaml.safe_dump(settings))
    return config


def raw_weights(folder):
    return torch.load(RunFolder(folder).checkpoint(STEPS) / "raw_weights.pt", weights_only=True)


def test_loading_processes_change_nothing_and_may_change(tmp_path, shards, capsys):
    config = streaming_config(tmp_path, shards)
    options = ["--training.lr_schedule", "constant", "--training.max_steps"]
    assert train(config, tmp_path / "one", *options, str(STEPS)) == 0
    said = capsys.readouterr()
    assert f"{shards}: a stream from {shards}, 4 shards in 4 lanes; held out validation 8, test 8" in said.err
    assert "unigram entropy" in said.out
    assert train(config, tmp_path / "other", *options, str(HALF), "--training.num_workers", "2") == 0
    again = ["--resume", "--training.num_workers", "4"]
    assert train(config, tmp_path / "other", *options, str(STEPS), *again) == 0
    one, other = raw_weights(tmp_path / "one"), raw_weights(tmp_path / "other")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_other_shards_are_another_run(tmp_path, shards, capsys):
    (tmp_path / "shards").mkdir()
    for file in shards.iterdir():
        (tmp_path / "shards" / file.name).write_bytes(file.read_bytes())
    config = streaming_config(tmp_path, tmp_path / "shards")
    assert train(config, tmp_path / "run", "--training.max_steps", "4") == 0
    (tmp_path / "shards" / "part4.txt").write_text("one more")
    assert train(config, tmp_path / "run", "--training.max_steps", "8", "--resume") == 2
    assert "the text had 4 shards and now has 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.lanes", "3"], "training.batch_size is 16, which the 3 lanes of the data do not divide"),
        (
            ["--training.num_workers", "3"],
            "training.num_workers is 3, but each process reads 4 of the 4 lanes",
        ),
    ],
)
def test_what_does_not_divide_is_refused_before_anything_is_written(
    tmp_path, shards, capsys, options, message
):
    assert train(streaming_config(tmp_path, shards), tmp_path / "run", *options) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_whole_documents_need_a_network_that_tells_them_apart(tmp_path, shards, capsys):
    config = streaming_config(tmp_path, shards, documents="whole", block_size=64)
    assert train(config, tmp_path / "run", "--training.max_steps", "4") == 0
    assert "bits/char" in capsys.readouterr().out
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    settings = yaml.safe_load(config.read_text())
    settings["network"] = {
        "class_path": "d3pm.networks.MaskedLMDenoiser",
        "init_args": {"config": {"model_type": "bert", **sizes}, "num_states": 28},
    }
    config.write_text(yaml.safe_dump(settings))
    assert train(config, tmp_path / "other") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        "data.documents is whole, but network MaskedLMDenoiser cannot tell the documents of a row apart"
        in said
    )
