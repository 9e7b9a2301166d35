"""The report on drawn rows of a table: what each figure is where it is known, and what beats what."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats.contingency import association

from d3pm.errors import ConfigError, DataError
from d3pm.evaluation import table_quality
from d3pm.evaluation.association import association_error, cramers_v
from d3pm.evaluation.table_quality import shuffled
from d3pm.evaluation.train_on_synthetic import tstr
from d3pm.evaluation.variation import total_variation


def codec(*cardinalities, kinds=None, missing=()):
    """What the report needs to know of a codec; ``missing`` are columns whose last symbol is a gap."""

    def column(c, size):
        values = [float(k) for k in range(size)]
        values[-1] = math.nan if c in missing else values[-1]
        kind = kinds[c] if kinds else "nominal"

        def decode(symbols):
            return pd.Series(np.take(values, symbols))

        return SimpleNamespace(name=f"c{c}", kind=kind, num_symbols=size, decode=decode)

    columns = [column(c, size) for c, size in enumerate(cardinalities)]
    return SimpleNamespace(columns=columns, cardinalities=cardinalities)


def rows(joint, num, seed=0):
    """``num`` rows of two columns with these chances of each pair."""
    joint = torch.tensor(joint, dtype=torch.float64)
    drawn = joint.flatten().multinomial(num, True, generator=torch.Generator().manual_seed(seed))
    return torch.stack([drawn // joint.shape[1], drawn % joint.shape[1]], 1)


def noise(num, *cardinalities, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(k, (num,), generator=generator) for k in cardinalities], 1)


# total variation


def test_total_variation_of_equal_tables_is_0_and_of_disjoint_ones_1():
    x = noise(50, 3, 4)
    assert total_variation(x, x.flip(0), [3, 4]).tolist() == [0, 0]
    assert total_variation(x, x + torch.tensor([3, 4]), [6, 8]).tolist() == pytest.approx([1, 1])


def test_total_variation_is_half_the_sum_of_the_gaps():
    x, y = torch.tensor([[0], [0], [1], [2]]), torch.tensor([[0], [1], [1], [1], [3]])
    gaps = [2 / 4 - 1 / 5, 1 / 4 - 3 / 5, 1 / 4, -1 / 5]
    assert float(total_variation(x, y, [4])) == pytest.approx(sum(map(abs, gaps)) / 2, abs=1e-15)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.tensor([[0, 4]]), "row 0 has symbol 4 in column 1"),
        (torch.tensor([[0, 0], [-1, 0]]), "row 1 has symbol -1 in column 0"),
        (torch.zeros(3, 3, dtype=torch.int64), r"shape \(3, 3\) is no table of 2 columns"),
        (torch.zeros(0, 2, dtype=torch.int64), "no table of 2 columns"),
    ],
)
def test_what_is_no_table_of_these_columns_is_refused(x, said):
    with pytest.raises(DataError, match=said):
        total_variation(x, x, [3, 4])
    with pytest.raises(DataError, match=said):
        cramers_v(x, [3, 4])


# association


def test_cramers_v_of_a_copied_column_is_1_whatever_its_symbols_are_called():
    x = noise(200, 5)
    copies = torch.cat([x, (x * 2 + 1) % 5, x], 1)
    assert cramers_v(copies, [5, 9, 5]).numpy() == pytest.approx(np.ones((3, 3)), abs=1e-12)


def test_cramers_v_of_independent_columns_goes_to_0_even_with_many_symbols():
    means = []
    for num in (500, 5000, 50000):
        v = cramers_v(noise(num, *[20] * 12), [20] * 12)
        means.append(float(v[~torch.eye(12, dtype=bool)].mean()))
    assert means[0] < 0.05  # uncorrected: sqrt(19 / 499) = 0.195
    assert means[0] > 2 * means[1] > 4 * means[2]


def test_cramers_v_is_scipys_but_for_the_correction():
    x = noise(300, 3, 4)
    x[:100, 1] = x[:100, 0]
    table = np.histogram2d(*x.T.numpy(), bins=(3, 4))[0].astype(int)
    phi = association(table) ** 2 * 2  # scipy's V, uncorrected, times min(r, k) - 1
    r, k = 3 - 4 / 299, 4 - 9 / 299
    expected = math.sqrt((phi - 2 * 3 / 299) / (min(r, k) - 1))
    assert float(cramers_v(x, [3, 4])[0, 1]) == pytest.approx(expected, abs=1e-12)
    assert float(cramers_v(x, [7, 9])[0, 1]) == pytest.approx(expected, abs=1e-12), "symbols that never occur"


def test_a_column_with_one_symbol_is_associated_with_nothing():
    x = noise(100, 3, 3)
    x[:, 1] = 2
    v = cramers_v(x, [3, 3])
    assert v[0, 1] == v[1, 1] == 0
    assert not cramers_v(x[:1], [3, 3]).isnan().any()


def test_the_error_of_association_is_over_pairs_of_two_columns_only():
    x = noise(4000, 3, 3, 3)
    copied = x.clone()
    copied[:, 1] = x[:, 0]
    assert association_error(copied, copied, [3] * 3) == 0
    assert association_error(copied, x, [3] * 3) == pytest.approx(1 / 3, abs=0.02)
    assert math.isnan(association_error(x[:, :1], x[:, :1], [3]))


# train on synthetic, test on real


def test_a_classifier_learns_what_the_rows_teach():
    """P(y = x) = 0.8: the best there is; rows that say the contrary teach the contrary."""
    train, test = rows([[0.4, 0.1], [0.1, 0.4]], 4000), rows([[0.4, 0.1], [0.1, 0.4]], 4000, seed=1)
    share = float((test[:, 0] == test[:, 1]).double().mean())
    score = tstr(train, test, 1, [2, 2])
    assert score.accuracy == pytest.approx(share, abs=1e-12)
    assert score.auc == pytest.approx(share, abs=0.01)  # of a balanced coin told with 0.8
    wrong = tstr(torch.stack([train[:, 0], 1 - train[:, 1]], 1), test, 1, [2, 2])
    assert wrong.accuracy == pytest.approx(1 - share, abs=1e-12)
    assert wrong.auc == pytest.approx(1 - score.auc, abs=1e-12)


def test_an_ordered_column_is_an_amount_and_a_nominal_one_is_not():
    """A threshold between symbols never seen together: only an amount tells what lies between."""
    x = torch.arange(40).repeat_interleave(30)
    table = torch.stack([x, (x >= 20).long()], 1)
    seen, unseen = table[x % 2 == 0], table[x % 2 == 1]
    assert tstr(seen, unseen, 1, [40, 2], ordered=[True, True]).accuracy == 1
    assert tstr(seen, unseen, 1, [40, 2]).accuracy < 0.9


def test_rows_of_one_class_teach_that_class():
    train, test = rows([[0, 0.5], [0, 0.5]], 50), rows([[0.1, 0.2], [0.2, 0.5]], 500)
    score = tstr(train, test, 1, [2, 2])
    assert score.accuracy == pytest.approx(float(test[:, 1].double().mean()), abs=1e-12)
    assert score.auc == 0.5


def test_a_class_that_was_never_drawn_is_never_guessed():
    train, test = noise(300, 4, 2), noise(300, 4, 3, seed=1)
    score = tstr(train, test, 1, [4, 3])
    assert 0 < score.accuracy < 0.5
    assert math.isnan(score.auc)


# the report


JOINT = [[0.35, 0.05], [0.05, 0.55]]
V = (0.35 * 0.55 - 0.05**2) / (0.4 * 0.6)  # both columns have the law (0.4, 0.6)


def test_a_perfect_sampler_is_at_the_floor_and_independent_columns_are_where_they_must_be():
    train, test, drawn = (rows(JOINT, 20000, seed) for seed in range(3))
    found = table_quality(drawn, train, test, codec(2, 2), target="c1")
    assert (found.num_rows, found.num_test) == (20000, 20000)
    for perfect in (found.samples, found.real):
        assert max(perfect.variation) < 0.015
        assert perfect.association_error < 0.015
        assert perfect.score.accuracy == pytest.approx(0.9, abs=0.01)
    assert found.independent.variation == found.real.variation
    assert found.independent.association_error == pytest.approx(V, abs=0.02)
    assert found.independent.score.accuracy == pytest.approx(0.6, abs=0.01)
    assert found.commonest == pytest.approx(0.6, abs=0.01)


def test_errors_of_a_perfect_sampler_fall_with_the_rows_to_the_floor():
    test = rows(JOINT, 400000)
    errors = []
    for num in (200, 2000, 20000):
        found = table_quality(rows(JOINT, num, 1), rows(JOINT, num, 2), test, codec(2, 2))
        errors.append([found.samples.association_error + found.samples.variation[0], found.num_rows])
    assert [num for _, num in errors] == [200, 2000, 20000]
    assert errors[2][0] < 0.02 < errors[0][0]


def test_a_sampler_of_independent_columns_gets_what_the_shuffles_get():
    train, test = rows(JOINT, 5000), rows(JOINT, 5000, 1)
    found = table_quality(shuffled(rows(JOINT, 5000, 2)), train, test, codec(2, 2), target="c0")
    assert found.samples.association_error == pytest.approx(found.independent.association_error, abs=0.02)
    assert found.samples.score.accuracy == pytest.approx(found.independent.score.accuracy, abs=0.02)


def test_shuffles_keep_each_column_and_break_the_rows():
    x = rows(JOINT, 4000)
    mixed = shuffled(x, torch.Generator().manual_seed(0))
    assert (mixed.sort(0).values == x.sort(0).values).all()
    assert float(cramers_v(mixed, [2, 2])[0, 1]) < 0.06 < float(cramers_v(x, [2, 2])[0, 1])


def test_as_many_rows_of_each_as_the_shorter_table_has():
    found = table_quality(noise(50, 3, 3), noise(30, 3, 3), noise(20, 3, 3), codec(3, 3))
    assert (found.num_rows, found.num_test, found.target) == (30, 20, None)
    assert found.samples.score is None
    assert "accuracy" not in found.as_dict()["samples"]


def test_the_worst_columns_come_first():
    real = noise(500, 3, 3, 3)
    drawn = real.clone()
    drawn[:, 2], drawn[:250, 1] = 0, 0
    found = table_quality(drawn, real, real, codec(3, 3, 3))
    assert found.worst(2) == [2, 1]
    table = found.as_dict()
    assert table["samples"]["largest_total_variation"] == table["columns"]["c2"]["samples"]
    assert table["samples"]["total_variation"] == pytest.approx(np.mean(found.samples.variation))


@pytest.mark.parametrize("missing", [False, True])
def test_numbers_are_predicted_to_lie_below_their_median_or_not(missing):
    """9 bins, the fifth of which holds the median, and perhaps gaps; the first column tells which."""
    bins = noise(3000, 9)
    known = torch.where(bins < 4, 0, 1)
    if missing:
        bins[:600], known[:600] = 9, 2
    table = torch.cat([known, bins], 1)
    columns = codec(3, 9 + missing, kinds=["nominal", "numeric"], missing=[1] * missing)
    found = table_quality(table, table, table, columns, target="c1")
    assert found.target == "c1 below its median or not"
    assert found.samples.score.accuracy == 1
    assert math.isnan(found.samples.score.auc) == missing


def test_a_target_that_is_no_column_and_an_empty_table_are_refused():
    x = noise(10, 2, 2)
    with pytest.raises(ConfigError, match=r"target is 'age', which is no column: choose one of c0, c1"):
        table_quality(x, x, x, codec(2, 2), target="age")
    with pytest.raises(DataError, match="need a row each"):
        table_quality(x[:0], x, x, codec(2, 2))


def test_equal_seeds_give_equal_reports():
    train, test = rows(JOINT, 300), rows(JOINT, 200, 1)
    one, other = (table_quality(train[:100], train, test, codec(2, 2), "c0", seed=3) for _ in range(2))
    assert one == other
