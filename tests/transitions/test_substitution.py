"""Rates from scores: reversible, scaled, in the codec's order; the files that come with the configs."""

from pathlib import Path

import pytest
import scipy.linalg
import torch
from oracle import times
from torch.testing import assert_close

from d3pm.data.alphabets import letters
from d3pm.data.fasta import FastaData
from d3pm.errors import ConfigError
from d3pm.specs import build, describe
from d3pm.transitions.hierarchical import HierarchicalTransition
from d3pm.transitions.score_matrix import read_scores
from d3pm.transitions.substitution import SubstitutionTransition

MATRICES = Path(__file__).parents[2] / "configs" / "matrices"
BLOSUM, KIMURA = MATRICES / "blosum62.txt", MATRICES / "kimura.txt"
EXACT = {"rtol": 1e-12, "atol": 1e-12}
SMALL = """# four letters, as NCBI writes them
   A  C  *  G
A  4 -1 -4  0.5

C -1  9 -4 -2
* -4 -4  1 -4
G  0.5 -2 -4  6
"""


def law(num_states: int) -> torch.Tensor:
    weights = torch.arange(1, num_states + 1, dtype=torch.float64)
    return weights / weights.sum()


class TestRates:
    kernel = SubstitutionTransition(BLOSUM, num_steps=10, alphabet="protein", frequencies=law(20))

    def test_they_follow_the_scores(self):
        scores, pi = self.kernel.scores, self.kernel.stationary()
        lift = self.kernel.rates / pi  # proportional to 2^(S/2) off the diagonal
        off = ~torch.eye(20, dtype=torch.bool)
        constant = (lift / 2 ** (scores / 2))[off]
        assert_close(constant, constant[:1].expand_as(constant), **EXACT)

    def test_they_are_reversible_and_scaled_to_one_substitution(self):
        pi, rates = self.kernel.stationary(), self.kernel.rates
        flow = pi[:, None] * rates
        assert_close(flow, flow.T, rtol=1e-14, atol=1e-17)
        assert_close(pi, law(20), **EXACT)
        assert float(-(pi * rates.diagonal()).sum()) == pytest.approx(1, abs=1e-12)

    def test_alpha_bar_is_about_the_chance_that_nothing_happened(self):
        t = times(1)
        stays = self.kernel.between(t * 0, t).dense()[0].diagonal()
        assert float(law(20) @ stays) == pytest.approx(float(self.kernel.alpha_bars[t]), abs=2e-3)

    def test_steps_are_the_exponential(self):
        clock = -self.kernel.alpha_bars.values.log().numpy()
        expected = scipy.linalg.expm((clock[7] - clock[2]) * self.kernel.rates.numpy())
        found = self.kernel.between(times(2), times(7)).dense()[0]
        assert_close(found, torch.from_numpy(expected), rtol=1e-10, atol=1e-14)

    def test_the_unit_scales_scores_and_large_ones_do_not_overflow(self):
        scores = torch.tensor([[0.0, 3000.0, 2996.0], [3000.0, 0.0, 2990.0], [2996.0, 2990.0, 0.0]])
        thirds = SubstitutionTransition(scores, 3, unit=1 / 3).rates
        assert float(thirds[0, 1] / thirds[0, 2]) == pytest.approx(2 ** (4 / 3))
        forbidden = scores.clone()
        forbidden[0, 1] = forbidden[1, 0] = -torch.inf
        assert SubstitutionTransition(forbidden, 3).rates[0, 1] == 0


class TestFiles:
    def test_letters_come_in_the_order_of_the_codec(self):
        data = FastaData("none.faa", alphabet="protein")
        kernel = SubstitutionTransition(str(BLOSUM), 5, alphabet="protein")
        assert letters(kernel.alphabet) == data.letters == data.codec.alphabet
        place = data.letters.index
        for pair, score in {"WW": 11, "IV": 3, "DE": 2, "CE": -4, "HY": 2, "PF": -4, "KR": 2}.items():
            assert kernel.scores[place(pair[0]), place(pair[1])] == score

    def test_blosum62_is_the_published_one(self):
        """Its order and each letter with itself, which no two of the BLOSUM matrices share."""
        scores, order = read_scores(BLOSUM)
        assert order == "ARNDCQEGHILKMFPSTWYV"
        assert scores.diagonal().tolist() == [4, 5, 6, 6, 9, 5, 5, 6, 8, 4, 4, 5, 5, 6, 7, 4, 5, 11, 7, 4]
        assert torch.equal(scores, scores.T)

    def test_kimura_is_the_kernel_on_purines_and_pyrimidines(self):
        """Two-parameter models of the same ratio are one up to the clock."""
        kimura = SubstitutionTransition(KIMURA, 8, alphabet="dna")
        ratio = float(kimura.rates[0, 2] / kimura.rates[0, 1])
        assert ratio == pytest.approx(4)
        groups = [int(base in "CT") for base in letters("dna")]
        ours = HierarchicalTransition(groups, 8, within=(ratio - 1) / 2)
        # Drawn from all at rate 1, each base comes at 1/4, the rate of a transversion there.
        clock = -ours.alpha_bars[times(3)].log()
        step = torch.matrix_exp(clock * kimura.rates / kimura.rates[0, 1] / 4)
        assert_close(ours.between(times(0), times(3)).dense()[0], step, rtol=1e-10, atol=1e-12)

    def test_all_letters_of_the_file_or_some(self, tmp_path):
        (tmp_path / "m.txt").write_text(SMALL)
        assert read_scores(tmp_path / "m.txt")[1] == "AC*G"
        scores, order = read_scores(tmp_path / "m.txt", "GA")
        assert (scores.tolist(), order) == ([[6, 0.5], [0.5, 4]], "GA")

    def test_rows_may_stand_in_another_order_than_columns(self, tmp_path):
        lines = SMALL.splitlines()
        (tmp_path / "m.txt").write_text("\n".join([*lines[:2], *reversed(lines[2:])]))
        assert read_scores(tmp_path / "m.txt", "ACG")[0][1].tolist() == [-1, 9, -2]


def test_it_comes_back_from_plain_data_without_the_file(tmp_path):
    (tmp_path / "m.txt").write_text(SMALL)
    kernel = SubstitutionTransition(
        tmp_path / "m.txt", 7, alphabet="GAC", frequencies=[0.5, 0.25, 0.25], unit=0.4
    )
    (tmp_path / "m.txt").unlink()
    for tensors in (None, {}):
        again = build(describe(kernel, tensors), tensors=tensors)
        s, t = times(0, 2), times(3, 7)
        assert torch.equal(again.between(s, t).dense(), kernel.between(s, t).dense())
        assert again.alphabet == "GAC"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("A  4 -1 -4  0.5", "A  4 -2 -4  0.5", "A to C is -2, but C to A -1"),
        ("-4 -2\n", "-4 x\n", r"line 5: 'x' is no score"),
        ("-4 -2\n", "-4 nan\n", r"line 5: 'nan' is no score"),
        ("-4 -2\n", "-4 -2 1\n", r"line 5 has 5 scores: .* 4 scores"),
        ("* -4", "A -4", r"line 6 has a second row for 'A'"),
        ("   A  C  *  G", "   A  C  *  T", r"has no column for 'G': its letters are AC\*T"),
        ("G  0.5", "T  0.5", r"has no row for 'G'"),
        ("   A  C  *  G", "   A  C  *  C", "line 2 is to name the columns"),
        ("   A  C  *  G", "   A  C  *  GT", "line 2 is to name the columns"),
        (SMALL, "# nothing", "is empty"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, old, new, says):
    assert old in SMALL
    (tmp_path / "m.txt").write_text(SMALL.replace(old, new))
    with pytest.raises(ConfigError, match=says) as error:
        SubstitutionTransition(tmp_path / "m.txt", 5, alphabet="ACG")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scores": "nowhere.txt"}, "there is no file nowhere.txt"),
        ({"scores": torch.zeros(3, 4)}, r"scores has shape \(3, 4\)"),
        ({"scores": torch.full((3, 3), torch.nan)}, "that of A and A is nan"),
        ({"alphabet": "AC"}, "alphabet has 2 letters: the scores are of 3"),
        ({"alphabet": "acg"}, "alphabet: 'acg'"),
        ({"frequencies": [0.5, 0.5]}, "frequencies has 2 entries"),
        ({"frequencies": [0.5, 0.5, 0.0]}, r"frequencies\[2\] is 0"),
        ({"frequencies": [0.5, 0.5, 0.5]}, "frequencies sums to 1.5"),
        ({"unit": 0.0}, r"unit is 0\.0"),
    ],
)
def test_values_that_cannot_work_are_named(options, says):
    with pytest.raises(ConfigError, match=says) as error:
        SubstitutionTransition(**{"scores": torch.zeros(3, 3), "num_steps": 4, "alphabet": "ACG"} | options)
    assert "\n" not in str(error.value)
