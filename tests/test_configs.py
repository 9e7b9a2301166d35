"""Every config is one that `d3pm train` takes, and says what it costs."""

from pathlib import Path

import pytest
import torch

from d3pm.cli.experiment import add_experiment
from d3pm.cli.parser import Parser
from d3pm.data import TextData
from d3pm.specs import build

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
PAPER = ["text8-absorbing", "text8-uniform"]


def parse(file):
    parser = Parser()
    add_experiment(parser)
    return parser.parse_args(["--config", str(file)]).as_dict()


def test_there_are_configs():
    assert {"quickstart", "text8-small", "text8-absorbing", "text8-uniform", "lm1b-absorbing"} <= {
        file.stem for file in CONFIGS
    }


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_it_opens_with_its_command_its_cost_and_its_score(file):
    head = file.read_text().partition("\n\n")[0]
    assert f"d3pm train --config configs/{file.name} " in head
    assert "Cost:" in head
    assert "Expect:" in head


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_its_parts_can_be_made_and_agree(file):
    config = parse(file)
    process, objective = build(config["process"]), build(config["objective"])
    with torch.device("meta"):
        network = build(config["network"])
        logits = network(torch.zeros(2, 8, dtype=torch.int64), torch.tensor([1, 2]))
    assert logits.shape == (2, 8, process.num_states)
    data = build(config["data"])
    symbols = data.vocab_size if data.tokenizer == "bpe" else len(data.alphabet)
    assert process.num_states == symbols + (process.transition.absorbing_state is not None)
    assert isinstance(data, TextData)
    assert callable(objective)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_setting_is_the_papers(name):
    config = parse(next(file for file in CONFIGS if file.stem == name))
    network, training = config["network"]["init_args"], config["training"]
    assert (network["depth"], network["dim"], network["heads"]) == (12, 768, 12)
    assert (training["batch_size"], training["max_steps"]) == (512, 10**6)
    assert config["data"]["init_args"]["block_size"] == 256
    assert config["process"]["init_args"]["transition"]["init_args"]["num_steps"] == 1000
