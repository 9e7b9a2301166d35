"""Every config is one that `d3pm train` takes, and says what it costs."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from d3pm.cli.experiment import add_experiment
from d3pm.cli.parser import Parser
from d3pm.data import ImageCodec
from d3pm.specs import build

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
PAPER = ["text8-absorbing", "text8-uniform"]


def parse(file):
    parser = Parser()
    add_experiment(parser)
    return parser.parse_args(["--config", str(file)]).as_dict()


def data_of(file):
    return yaml.safe_load(file.read_text())["data"]


def of_kind(source):
    return [file for file in CONFIGS if data_of(file)["class_path"].endswith(f".{source}")]


def discrete(file):
    return data_of(file)["init_args"].get("discrete", False)


FLOATS = [file for file in of_kind("ImageData") if not discrete(file)]
LEVELS = [file for file in of_kind("ImageData") if discrete(file)]


def test_every_config_is_of_a_kind_that_is_tested():
    kinds = (FLOATS, LEVELS, *map(of_kind, ("TextData", "StreamedText", "TableData", "FastaData")))
    assert sorted(file for kind in kinds for file in kind) == CONFIGS


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


@pytest.mark.parametrize("file", of_kind("TextData") + of_kind("StreamedText"), ids=lambda file: file.stem)
def test_text_its_parts_can_be_made_and_agree(file):
    data, process, network, objective = built(file)
    logits = network(torch.zeros(2, 8, dtype=torch.int64, device="meta"), torch.ones(2, device="meta"))
    assert logits.shape == (2, 8, process.num_states)
    symbols = data.vocab_size if data.tokenizer == "bpe" else len(data.alphabet)
    assert process.num_states == symbols + (process.transition.mask_state is not None)
    assert callable(objective)


@pytest.mark.parametrize("file", FLOATS, ids=lambda file: file.stem)
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


@pytest.mark.parametrize("file", LEVELS, ids=lambda file: file.stem)
def test_grey_levels_its_parts_can_be_made_and_agree(file):
    data, process, network, objective = built(file)
    shape = (network.in_channels, network.size, network.size)
    codec = ImageCodec(shape, data.levels or {"digits": 17}.get(data.source, 256), data.discrete)
    process.check_codec(codec)
    process.check_network(network, shape)
    assert network.suited(SimpleNamespace(codec=codec, shape=shape)) is network
    assert data.labels == (network.num_classes is not None)
    x = torch.zeros(2, *shape, dtype=torch.int64, device="meta")
    assert network(x, torch.ones(2, device="meta")).shape == (2, *shape, process.num_states)
    if process.num_states < 100:  # the products of more states take seconds
        x0 = torch.randint(codec.levels, (2, *shape))
        t, x_t = objective.draw(process, x0, torch.Generator().manual_seed(0))
        losses = objective.at(process, torch.zeros(2, *shape, process.num_states), x0, x_t, t)
        assert losses.shape == x0.shape
        assert losses.isfinite().all()


@pytest.mark.parametrize("file", of_kind("TableData"), ids=lambda file: file.stem)
def test_tables_its_parts_can_be_made_and_agree(file):
    """On a table that is there for everyone; the config's own need not be."""
    from d3pm.data.table import TableData

    parser = Parser()  # not `built`: a kernel that leaves its states open is no object yet
    add_experiment(parser)
    experiment = parser.instantiate(parser.parse_args(["--config", str(file)]))
    data, objective = TableData("iris"), experiment.objective
    process, network = experiment.process.suited(data), experiment.network.suited(data)
    process.check_codec(data.codec)
    process.check_network(network, data.shape)
    x0 = torch.stack([data.split("test")[i]["x0"] for i in range(3)])
    t, x_t = objective.draw(process, x0, torch.Generator().manual_seed(0))
    losses = objective.at(process, network(x_t, t), x0, x_t, t)
    assert losses.shape == x0.shape
    assert losses.isfinite().all()


@pytest.mark.parametrize("file", of_kind("FastaData"), ids=lambda file: file.stem)
def test_sequences_its_parts_can_be_made_and_agree(file, monkeypatch):
    monkeypatch.chdir(file.parent.parent)  # a matrix of a kernel is named from there
    data, process, network, objective = built(file)
    assert process.num_states == len(data.letters) + (process.transition.mask_state is not None)
    logits = network(torch.zeros(2, 8, dtype=torch.int64, device="meta"), torch.ones(2, device="meta"))
    assert logits.shape == (2, 8, process.num_states)
    x0 = torch.randint(len(data.letters), (2, 8))
    t, x_t = objective.draw(process, x0, torch.Generator().manual_seed(0))
    losses = objective.at(process, torch.zeros(2, 8, process.num_states), x0, x_t, t)
    assert losses.isfinite().all()


@pytest.mark.parametrize("kernel", ["uniform", "absorbing", "gaussian", "gaussian-logistic"])
def test_the_papers_pictures_are_the_papers(kernel):
    config = parse(next(file for file in CONFIGS if file.stem == f"cifar10-{kernel}"))
    network, training = config["network"]["init_args"], config["training"]
    within, transition = (
        network["network"]["init_args"],
        config["process"]["init_args"]["transition"]["init_args"],
    )
    assert (network["num_states"], transition["num_steps"]) == (256 + (kernel == "absorbing"), 1000)
    assert (within["channels"], within["attention_at"], within["dropout"]) == (
        (128, 256, 256, 256),
        (16,),
        0.1,
    )
    assert (training["batch_size"], training["max_steps"], training["learning_rate"]) == (
        128,
        1_500_000,
        2e-4,
    )


def test_digits_take_other_kernels_and_heads_from_the_command_line():
    """As the head of the config tells."""
    file = next(file for file in CONFIGS if file.stem == "digits-gaussian")
    head = file.read_text().partition("\n\n")[0].replace("# ", "").replace("\\\n", " ")
    commands = [line.split() for line in head.splitlines() if "--network." in line or "--process." in line]
    assert len(commands) == 3
    for program, verb, _, _, *options in commands:
        assert (program, verb) == ("d3pm", "train")
        parser = Parser()
        add_experiment(parser)
        parser.add_argument("--output")
        experiment = parser.instantiate(parser.parse_args(["--config", str(file), *options]))
        parts = (experiment.network, experiment.process.transition)
        assert {type(part).__name__ for part in parts} & set(options)
        experiment.process.check_codec(experiment.data.codec)
        experiment.process.check_network(experiment.network.suited(experiment.data), experiment.data.shape)


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
