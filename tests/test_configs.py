"""Every config is one that `d3pm train` takes, and says what it costs."""

from pathlib import Path

import pytest
import torch

from d3pm.cli.experiment import add_experiment
from d3pm.cli.parser import Parser
from d3pm.specs import build

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
PAPER = ["text8-absorbing", "text8-uniform"]


def parse(file):
    parser = Parser()
    add_experiment(parser)
    return parser.parse_args(["--config", str(file)]).as_dict()


def of_kind(source):
    return [file for file in CONFIGS if f"d3pm.data.{source}" in file.read_text()]


def test_every_config_is_of_a_kind_that_is_tested():
    assert sorted(of_kind("TextData") + of_kind("ImageData")) == CONFIGS


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


def built(file):
    """Data source, process, network (without storage) and objective of a config."""
    config = parse(file)
    with torch.device("meta"):
        network = build(config["network"])
    return build(config["data"]), build(config["process"]), network, build(config["objective"])


@pytest.mark.parametrize("file", of_kind("TextData"), ids=lambda file: file.stem)
def test_text_its_parts_can_be_made_and_agree(file):
    data, process, network, objective = built(file)
    logits = network(torch.zeros(2, 8, dtype=torch.int64, device="meta"), torch.ones(2, device="meta"))
    assert logits.shape == (2, 8, process.num_states)
    symbols = data.vocab_size if data.tokenizer == "bpe" else len(data.alphabet)
    assert process.num_states == symbols + (process.transition.mask_state is not None)
    assert callable(objective)


@pytest.mark.parametrize("file", of_kind("ImageData"), ids=lambda file: file.stem)
def test_pictures_its_parts_can_be_made_and_agree(file):
    data, process, network, objective = built(file)
    shape = (network.in_channels, network.size, network.size)
    assert process.levels == {"digits": 17}.get(data.source, 256)
    output = network(torch.zeros(2, *shape, device="meta"), torch.ones(2, device="meta"))
    if objective.classifies:
        assert output.shape == (2, network.num_classes)
        assert data.labels
        return
    process.check_network(network, shape)
    assert output.shape == (2, network.out_channels, *shape[1:])
    assert data.labels == (network.num_classes is not None)
    x0 = torch.rand(2, *shape) * 2 - 1
    t, x_t = objective.draw(process, x0, torch.Generator().manual_seed(0))
    assert objective.at(process, torch.zeros(2, *output.shape[1:]), x0, x_t, t).shape == x0.shape


def test_the_published_layout_is_that_of_ddpm():
    _, process, network, _ = built(next(file for file in CONFIGS if file.stem == "cifar10-ddpm"))
    assert sum(parameter.numel() for parameter in network.parameters()) == 35_746_307
    assert (process.prediction, process.variance, process.num_steps) == ("eps", "fixed_large", 1000)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_setting_is_the_papers(name):
    config = parse(next(file for file in CONFIGS if file.stem == name))
    network, training = config["network"]["init_args"], config["training"]
    assert (network["depth"], network["dim"], network["heads"]) == (12, 768, 12)
    assert (training["batch_size"], training["max_steps"]) == (512, 10**6)
    assert config["data"]["init_args"]["block_size"] == 256
    assert config["process"]["init_args"]["transition"]["init_args"]["num_steps"] == 1000
