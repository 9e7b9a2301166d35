"""Out of memory in any verb: one line that says what was asked for and what to lower."""

import pytest
import torch
from tiny import train, write_config

from d3pm.cli import main
from d3pm.networks import TransformerDenoiser
from d3pm.training import RunFolder

ON_GPU = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.02 GiB is free."
)
ON_CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "400000000000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    assert train(write_config(folder), folder / "run", "--training.max_steps=2") == 0
    return RunFolder(folder / "run")


@pytest.fixture
def out_of_memory(monkeypatch):
    """Have the network run out of memory when it is called with more than so many examples."""

    def beyond(most, error=ON_GPU):
        forward = TransformerDenoiser.forward

        def short(self, x_t, *args, **kwargs):
            if len(x_t) > most:
                raise error
            return forward(self, x_t, *args, **kwargs)

        monkeypatch.setattr(TransformerDenoiser, "forward", short)

    return beyond


def refusal(capsys, *argv):
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"d3pm {argv[0]}: error: ")
    return line


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ON_GPU, "the GPU ran out of memory (2.00 GiB more were asked for)"),
        (ON_CPU, "the machine ran out of memory (400000000000 bytes more were asked for)"),
        (MemoryError(), "the machine ran out of memory: "),
    ],
)
def test_training_says_which_micro_batch_to_take(run, tmp_path, capsys, out_of_memory, error, words):
    out_of_memory(6, error)
    command = ["train", "--config", run.config_file, "--output", tmp_path / "run"]
    line = refusal(capsys, *command)
    assert words in line
    assert (
        "training.micro_batch_size is 16: set it to 8, gradients are added up to training.batch_size = 16"
        in line
    )
    command += ["--resume", "auto", "--training.micro_batch_size"]
    assert "training.micro_batch_size is 8: set it to 4" in refusal(capsys, *command, 8)
    assert main([str(word) for word in [*command, 4]]) == 0  # the advice was right


def test_where_one_example_is_too_many_other_things_help(run, tmp_path, capsys, out_of_memory):
    out_of_memory(0)
    command = ["train", "--config", run.config_file, "--output", tmp_path / "run"]
    line = refusal(capsys, *command, "--training.micro_batch_size", "1")
    assert "training.micro_batch_size is 1: set training.recompute" in line


def test_a_model_that_was_trained_is_kept(run, tmp_path, capsys, monkeypatch):
    def short(*args, **kwargs):
        raise ON_GPU

    monkeypatch.setattr("d3pm.cli.train.evaluate", short)
    line = refusal(
        capsys, "train", "--config", run.config_file, "--output", tmp_path / "run", "--training.max_steps=2"
    )
    assert "the model is kept" in line
    assert f"evaluate {tmp_path / 'run'} --batch-size 8" in line
    assert RunFolder(tmp_path / "run").finished


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["sample", "--num", "8", "--batch-size", "8"], "lower --batch-size, now 8"),
        (["sample", "--num", "8", "--batch_size=6"], "lower --batch-size, now 6"),
        (["sample", "--num", "8"], "give a --batch-size below the default"),
        (["evaluate"], "give a --batch-size below the default"),
        (["plan-steps", "--steps", "2", "--batch-size", "16"], "lower --batch-size, now 16"),
    ],
)
def test_other_verbs_take_smaller_batches(run, capsys, out_of_memory, argv, words):
    out_of_memory(4)
    verb, *options = argv
    line = refusal(capsys, verb, run.path, *options)
    assert "the GPU ran out of memory (2.00 GiB more were asked for)" in line
    assert words in line
    assert main([verb, str(run.path), *options, "--batch-size", "4"]) in (0, 2)


def test_other_errors_of_torch_keep_their_traceback(run, out_of_memory):
    out_of_memory(0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        main(["sample", str(run.path), "--num", "1"])
