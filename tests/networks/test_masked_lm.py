"""Laws of the wrapped masked language model: states are its vocabulary, and saving loses nothing."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForMaskedLM

from d3pm import AbsorbingTransition, DiscreteDiffusion
from d3pm.errors import CheckpointError, ConfigError
from d3pm.networks import MaskedLMDenoiser
from d3pm.objectives import AuxiliaryBound

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
BERT = {"model_type": "bert", "vocab_size": 40, "max_position_embeddings": 64, **SIZES}
ROBERTA = {**BERT, "model_type": "roberta"}
MODERN_BERT = {"model_type": "modernbert", **SIZES}  # its default special ids lie near 50,000
K, B, L = 28, 3, 10


def tiny(config=BERT, num_states=K) -> MaskedLMDenoiser:
    torch.manual_seed(0)
    return MaskedLMDenoiser(config, num_states).eval()


def rows() -> torch.Tensor:
    return torch.randint(K, (B, L), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as `transformers` writes it, in half precision, and the model in it."""
    folder = tmp_path_factory.mktemp("bert")
    model = tiny(num_states=None).model.bfloat16()
    model.save_pretrained(folder)
    return folder, model.float()


@pytest.mark.parametrize("config", [BERT, ROBERTA, MODERN_BERT], ids=lambda config: config["model_type"])
@pytest.mark.parametrize("num_states", [2, K, 70])
def test_logits_are_over_the_states_whatever_the_vocabulary_was(config, num_states):
    network = tiny(config, num_states)
    x = torch.arange(num_states)[None, :20]
    assert network(x, torch.tensor([5])).shape == (1, x.shape[1], num_states)


def test_time_is_ignored_bitwise():
    network = tiny()
    assert torch.equal(network(rows(), torch.tensor([1, 2, 3])), network(rows(), torch.zeros(B)))


def test_both_directions_are_seen():
    network, x = tiny(), rows()
    y = x.clone()
    y[:, -1] = (y[:, -1] + 1) % K
    t = torch.ones(B)
    assert ((network(x, t) - network(y, t))[:, 0].abs().amax(-1) > 0).all()


def test_padding_never_reaches_real_positions_and_rows_of_padding_stay_finite():
    network, x, t = tiny(), rows(), torch.ones(B)
    real = torch.arange(L) < torch.tensor([[L], [6], [0]])
    logits = network(x, t, attention_mask=real.long())
    repadded = network(torch.where(real, x, K - 1), t, attention_mask=real.long())
    assert torch.equal(logits[real], repadded[real])
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[1, :6], network(x[1:2, :6], t[:1])[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [BERT, ROBERTA], ids=lambda config: config["model_type"])
def test_every_state_is_trained_the_padding_id_of_the_configuration_too(config):
    network, t = tiny({**config, "tie_word_embeddings": False}), torch.ones(1)
    F.cross_entropy(network(torch.arange(K)[None], t)[0], torch.arange(K)).backward()
    gradient = network.model.get_input_embeddings().weight.grad
    assert (gradient.abs().amax(-1) > 0).all()


def test_no_state_is_padding_whatever_its_number():
    network, t = tiny(ROBERTA), torch.ones(1)
    pad = network.model.config.pad_token_id
    x = torch.full((1, 5), pad)
    logits = network(x, t)[0]
    assert (torch.cdist(logits, logits) + torch.eye(5)).min() > 1e-3, "each position is another"
    x = torch.arange(pad + 1, pad + 8)[None]
    assert torch.equal(network(x, t), network.model(input_ids=x).logits)


def test_constructor_arguments_are_kept_and_make_it_again():
    network = tiny()
    assert network.config == BERT
    assert network.num_states == K
    assert tiny(num_states=None).num_states == 40
    again = MaskedLMDenoiser(json.loads(json.dumps(network.config)), network.num_states).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(rows(), torch.ones(B)), network(rows(), torch.ones(B)))


def test_loaded_weights_are_the_published_ones(published):
    folder, model = published
    network = MaskedLMDenoiser.from_pretrained(folder)
    assert network.num_states == 40
    assert not network.training
    assert not network.model.training
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert torch.equal(network(rows(), torch.ones(B)), model(input_ids=rows()).logits)


@pytest.mark.parametrize("num_states", [K, 41])
def test_loaded_weights_are_kept_for_the_states_that_remain(published, num_states):
    folder, model = published
    network = MaskedLMDenoiser.from_pretrained(folder, num_states=num_states)
    logits, expected = network(rows(), torch.ones(B)), model(input_ids=rows()).logits
    assert logits.shape[-1] == num_states
    common = min(num_states, 40)
    torch.testing.assert_close(logits[..., :common], expected[..., :common], rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_states", [None, K, 41])
def test_a_loaded_network_is_made_again_from_its_own_config(published, num_states):
    network = MaskedLMDenoiser.from_pretrained(published[0], num_states)
    config = json.loads(json.dumps(network.config))
    assert config == network.config
    assert str(published[0]) not in json.dumps(config)
    again = MaskedLMDenoiser(config, network.num_states).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(rows(), torch.ones(B)), network(rows(), torch.ones(B)))


@pytest.mark.parametrize("config", [BERT, MODERN_BERT], ids=lambda config: config["model_type"])
def test_a_transformers_model_around_it_saves_and_loads_it_whole(tmp_path, config):
    # Weights are tied and position buffers are not saved: both must survive one module further in.
    from transformers import PretrainedConfig, PreTrainedModel

    class Around(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, hub_config):
            super().__init__(hub_config)
            self.network = MaskedLMDenoiser(config, K)
            self.post_init()

        def _init_weights(self, module):
            pass

    around = Around(PretrainedConfig()).eval()
    with torch.no_grad():
        for parameter in around.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    around.save_pretrained(tmp_path)
    again = Around.from_pretrained(tmp_path)
    assert torch.equal(again.network(rows(), torch.ones(B)), around.network(rows(), torch.ones(B)))


def test_learns_to_copy():
    network = tiny().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    x, t = rows(), torch.ones(B)
    before = F.cross_entropy(network(x, t).flatten(0, 1), x.flatten())
    for _ in range(30):
        loss = F.cross_entropy(network(x, t).flatten(0, 1), x.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < before / 4


def test_compiles_to_one_graph():
    network, x, t = tiny(), rows(), torch.ones(B)
    mask = (torch.arange(L) < torch.tensor([[L], [4], [1]])).long()
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    for attention_mask in (None, mask):
        torch.testing.assert_close(compiled(x, t, attention_mask), network(x, t, attention_mask))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "bret"}, "'bret'.*'bert'"),
        ({"model_type": "gpt2"}, "'gpt2'"),
        ({}, "model_type=None"),
        ({**BERT, "hidden_size": 33}, "33"),
        ({**BERT, "hidden_size": "wide"}, "hidden_size.*wide"),
        ({**BERT, "hidden_act": "gulu"}, "gulu"),
    ],
)
def test_bad_configs_are_refused_in_one_line(config, words):
    with pytest.raises(ConfigError, match=words) as caught:
        MaskedLMDenoiser(config, K)
    assert "\n" not in str(caught.value)


def test_bad_sizes_are_refused(published):
    with pytest.raises(ConfigError, match="num_states=1"):
        MaskedLMDenoiser(BERT, num_states=1)
    with pytest.raises(ConfigError, match="num_states=0"):
        MaskedLMDenoiser.from_pretrained(published[0], num_states=0)
    with pytest.raises(ConfigError, match=r"max_position_embeddings=64 .* 65"):
        tiny()(torch.zeros(1, 65, dtype=torch.int64), torch.ones(1))
    with pytest.raises(ConfigError, match="rows of at most 62"):
        tiny(ROBERTA)(torch.zeros(1, 63, dtype=torch.int64), torch.ones(1))


def test_a_name_that_is_nowhere_is_refused_in_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere") as caught:
        MaskedLMDenoiser.from_pretrained(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)


def test_an_architecture_that_cannot_change_its_vocabulary_is_refused(tmp_path):
    protein = {"model_type": "esm", "vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1, **SIZES}
    tiny({**protein, "position_embedding_type": "rotary"}, None).model.save_pretrained(tmp_path)
    assert MaskedLMDenoiser.from_pretrained(tmp_path).num_states == 33
    with pytest.raises(ConfigError, match=r"num_states=20 .* take num_states=33"):
        MaskedLMDenoiser.from_pretrained(tmp_path, num_states=20)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("config", [BERT, ROBERTA, MODERN_BERT], ids=lambda config: config["model_type"])
def test_logits_may_be_left_to_the_loss(config, tied):
    """With more states than channels; the loss and every gradient are those of plain logits."""
    network = tiny({**config, "tie_word_embeddings": tied}, 70).double()
    assert network.defers
    assert not tiny(config, 20).defers
    process = DiscreteDiffusion(AbsorbingTransition(70, num_steps=10, mask_index=3))
    x0 = torch.randint(4, 70, (6, 12), generator=torch.Generator().manual_seed(2))
    found = []
    for asked in (network, lambda *args, **cond: network(*args, **cond)):  # a function does not defer
        loss = AuxiliaryBound()(process, asked, x0, generator=torch.Generator().manual_seed(3))
        gradients = torch.autograd.grad(loss.sum(), tuple(network.parameters()), allow_unused=True)
        found.append([loss, *(g for g in gradients if g is not None)])
    for deferred, plain in zip(*found, strict=True):
        torch.testing.assert_close(deferred, plain, rtol=1e-9, atol=1e-11)


def test_hidden_states_and_head_survive_copies_and_leave_the_model_as_it_was():
    network = copy.deepcopy(tiny(num_states=70))
    x, t = rows(), torch.ones(B)
    projection = network(x, t, defer=True)
    assert projection.hidden.shape == (B, L, 32)
    torch.testing.assert_close(projection.logits(), network(x, t))
    assert list(network.state_dict()) == list(tiny(num_states=20).state_dict())


BART = {"model_type": "bart", "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 70}


def test_a_model_that_does_more_than_a_linear_map_in_the_end_gives_logits():
    """BART adds a bias outside of it."""
    network = MaskedLMDenoiser(BART)
    assert not network.defers
    assert network(torch.randint(70, (2, 5)), torch.ones(2)).shape == (2, 5, 70)


def test_asking_costs_no_random_number():
    torch.manual_seed(4)
    tiny_model = MaskedLMDenoiser({**BERT, "hidden_dropout_prob": 0.5}, 70)
    drawn = torch.rand(3)
    torch.manual_seed(4)
    plain = AutoModelForMaskedLM.from_config(tiny_model.model.config)
    assert torch.equal(torch.rand(3), drawn)
    assert plain.training
    assert tiny_model.model.training
