"""Several documents in a row: each is looked at as if it were alone."""

import pytest
import torch
from torch.testing import assert_close

from d3pm.data.blocks import in_a_row
from d3pm.discrete.process import DiscreteDiffusion
from d3pm.networks import TransformerDenoiser
from d3pm.objectives import CrossEntropy, VariationalBound
from d3pm.transitions import AbsorbingTransition, UniformTransition

LENGTHS, SIZE, K = [[5, 1, 7], [16], [3, 3]], 16, 11


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def network(request):
    torch.manual_seed(0)
    network = TransformerDenoiser(num_states=K, dim=32, depth=3, heads=4).to(request.param)
    for parameter in network.parameters():  # a fresh one gives zeros, whatever it reads
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.fixture
def documents():
    generator = torch.Generator().manual_seed(1)
    return [[torch.randint(K, (length,), generator=generator).numpy() for length in row] for row in LENGTHS]


def batch(documents):
    rows = [in_a_row(row, SIZE) for row in documents]
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def tolerance(network):
    close = 1e-5 if network.head.weight.dtype == torch.float32 else 1e-12
    return {"rtol": close, "atol": close}


@pytest.mark.parametrize("with_mask", [True, False], ids=["padding told", "padding not told"])
def test_logits_are_those_of_the_document_alone(network, documents, with_mask):
    rows, t = batch(documents), torch.tensor([3, 500, 20])
    x = rows.pop("x0")
    if not with_mask:
        del rows["attention_mask"]
    logits = network(x, t, **rows)
    assert logits.isfinite().all()
    for row, parts in enumerate(documents):
        begin = 0
        for part in parts:
            alone = network(torch.from_numpy(part)[None], t[row : row + 1])[0]
            assert_close(logits[row, begin : begin + len(part)], alone, **tolerance(network))
            begin += len(part)


def test_without_segments_documents_see_each_other(network, documents):
    rows, t = batch(documents), torch.tensor([3, 500, 20])
    x = rows.pop("x0")
    apart, joined = network(x, t, **rows), network(x, t, attention_mask=rows["attention_mask"])
    assert (apart[0, :13] - joined[0, :13]).abs().max() > 0.01
    assert_close(apart[1], joined[1], **tolerance(network))  # a row of one document


def test_what_stands_beside_a_document_does_not_reach_it(network, documents):
    rows, t = batch(documents), torch.tensor([3, 500, 20])
    x = rows.pop("x0")
    other = torch.where(
        (rows["segments"] == 2), x, (x + 1) % K
    )  # all but the second document, padding included
    mine = rows["segments"] == 2
    assert torch.equal(network(x, t, **rows)[mine], network(other, t, **rows)[mine])


@pytest.mark.parametrize("kernel", [AbsorbingTransition, UniformTransition])
@pytest.mark.parametrize("objective", [VariationalBound(), CrossEntropy()])
def test_the_loss_is_the_sum_over_documents_and_counts_real_entries(documents, kernel, objective):
    torch.manual_seed(0)
    network = TransformerDenoiser(num_states=K, dim=32, depth=2, heads=4).double().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    process = DiscreteDiffusion(kernel(num_states=K, num_steps=20))
    documents = [[part % (K - 1) for part in row] for row in documents]
    rows, t = batch(documents), torch.tensor([3, 15, 20])
    x0 = rows.pop("x0")
    x_t = process.q_sample(x0, t, torch.Generator().manual_seed(2))
    terms = objective.at(process, network(x_t, t, **rows), x0, x_t, t)
    assert objective.count(x0, rows).tolist() == [13, 16, 6]
    for row, parts in enumerate(documents):
        begin = 0
        for part in parts:
            inside = (slice(row, row + 1), slice(begin, begin + len(part)))
            alone = objective.at(
                process, network(x_t[inside], t[inside[0]]), x0[inside], x_t[inside], t[inside[0]]
            )
            assert_close(terms[inside], alone, rtol=1e-10, atol=1e-12)
            begin += len(part)


def test_gradients_do_not_cross(network, documents):
    rows = batch(documents)
    x = rows.pop("x0")
    embedded = network.embedding(x).detach().requires_grad_()
    hidden = network.in_order(embedded, network._cond(torch.tensor([3, 5, 9]), None), **rows)
    hidden[0, :5].sum().backward()
    assert embedded.grad[0, :5].abs().sum() > 0
    assert not embedded.grad[0, 5:].any()
    assert not embedded.grad[1:].any()


def test_it_compiles_without_a_break(documents):
    network, rows = TransformerDenoiser(num_states=K, dim=8, depth=1, heads=2), batch(documents)
    torch.nn.init.normal_(network.head.weight)
    compiled, t = torch.compile(network, backend="eager", fullgraph=True), torch.tensor([3, 5, 9])
    given = {"attention_mask": rows["attention_mask"], "segments": rows["segments"]}
    assert_close(compiled(rows["x0"], t, **given), network(rows["x0"], t, **given))
