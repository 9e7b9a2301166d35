"""Texts judged: the laws of what they are judged by, each beside a slow twin or a closed form."""

import json
import math
import random
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from d3pm.data.normalize import text8_normalize
from d3pm.errors import ConfigError, DataError
from d3pm.evaluation import LanguageModel, TextReference, text_quality
from d3pm.evaluation.ngrams import Counts, Letters, NGramModel, jensen_shannon
from d3pm.evaluation.words import FARTHEST, Vocabulary, distinct, repetition


@pytest.fixture(scope="module")
def english() -> list[str]:
    """Blocks of 128 characters of the manual inside Python, some 3,000, in no order."""
    from pydoc_data.topics import topics

    text = text8_normalize(" ".join(topics.values()))
    blocks = [text[i : i + 128] for i in range(0, len(text) - 128, 128)]
    random.Random(0).shuffle(blocks)
    return blocks


@pytest.fixture(scope="module")
def reference(english) -> TextReference:
    return TextReference.fit(english[:2500], english[2500:])


# The n-gram model


def witten_bell(texts: list[str], history: str, letter: str, letters: str) -> float:
    """The slow twin: counts by looking through the texts, shorter histories first; '?' is any other character."""
    shown = ["".join(c if c in letters else "?" for c in text) for text in texts]
    p = 1 / (len(letters) + 1)
    for length in range(len(history) + 1):
        past = history[len(history) - length :]
        followers = Counter(
            text[i + length]
            for text in shown
            for i in range(len(text) - length)
            if text[i : i + length] == past
        )
        if followers:
            p = (followers[letter] + len(followers) * p) / (followers.total() + len(followers))
    return p


def test_the_models_probabilities_are_those_of_the_slow_twin():
    train, letters = ["abracadabra", "abba", "", "b", "cab?d"], "abcd"
    model = NGramModel.fit(train, 4, Letters(letters))
    texts = ["abra", "ddd", "a?b", "x"]
    p = model.probabilities(Letters(letters)(texts))
    expected = []
    for text in texts:
        text = "".join(c if c in letters else "?" for c in text)
        expected += [witten_bell(train, text[max(0, i - 3) : i], c, letters) for i, c in enumerate(text)] + [
            1.0
        ]
    np.testing.assert_allclose(p, expected[:-1], rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_its_laws_sum_to_one_after_seen_and_unseen_histories(order, english):
    letters = Letters.of(english[:50], order)
    model = NGramModel.fit(english[:50], order, letters)
    for history in ["", "e", "th", "zqxjk", english[3][:7], "é", "exampl"]:
        ids = letters([history + c for c in letters.known] + [history + "\0"])
        each = np.split(model.probabilities(ids), np.flatnonzero(ids < 0))
        assert sum(p[-1] for p in each) == pytest.approx(1, abs=1e-12)


def test_its_surprise_on_its_own_enumerated_law_is_the_entropy_in_closed_form():
    base, length = 3, 5
    model = NGramModel(np.array([0, 1, 1, 2, 0, 1, -1, 2, 2, 1]), order=2, base=base)
    start = model.probabilities(np.array([0, -1, 1, -1, 2]))[::2]
    move = np.array([[model.probabilities(np.array([a, b]))[1] for b in range(base)] for a in range(base)])
    entropy, p = -(start * np.log2(start)).sum(), start
    for _ in range(length - 1):
        entropy -= (p[:, None] * move * np.log2(move)).sum()
        p = p @ move
    expected = total = 0.0
    for text in product(range(base), repeat=length):
        probability = model.probabilities(np.array(text)).prod()
        total += probability
        expected += probability * model.bits_per_character(np.array(text))
    assert total == pytest.approx(1, abs=1e-12)
    assert expected * length == pytest.approx(entropy, rel=1e-12)


def test_more_history_surprises_less_and_no_character_is_impossible(english):
    train, held = english[:2500], english[2500:]
    bits = []
    for order in (1, 2, 4, 6):
        letters = Letters.of(train, order)
        bits.append(NGramModel.fit(train, order, letters).bits_per_character(letters(held)))
    assert bits == sorted(bits, reverse=True)
    assert math.isfinite(NGramModel.fit(train, 6).bits_per_character(np.array([0, 0])))


@pytest.mark.parametrize("order", [0, 9])
def test_an_order_that_is_none_is_refused(order):
    with pytest.raises(ConfigError, match=f"order is {order}"):
        TextReference.fit(["ab"], ["ab"], order)


# Divergence and entropy


def counts(text: str, n: int = 1) -> Counts:
    return Counts.of(Letters("abcd")([text]), n, 5)


def test_divergence_is_0_of_equals_and_1_bit_of_what_has_nothing_in_common():
    assert jensen_shannon(counts("abca"), counts("aabcaabc")) == pytest.approx(0, abs=1e-15)
    assert jensen_shannon(counts("ab"), counts("cd")) == pytest.approx(1, abs=1e-15)
    # p = (1, 0), q = (1/2, 1/2): H(3/4, 1/4) - H(1/2, 1/2) / 2
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)) - 0.5
    assert jensen_shannon(counts("aa"), counts("ab")) == pytest.approx(expected, rel=1e-12)
    assert jensen_shannon(counts("ab", 2), counts("aab", 2)) == jensen_shannon(
        counts("aab", 2), counts("ab", 2)
    )
    assert math.isnan(jensen_shannon(counts("a", 2), counts("ab", 2)))


def test_no_run_goes_across_two_texts():
    assert Counts.of(Letters("ab")(["ab", "ba"]), 2, 3).counts.sum() == 2


def test_the_same_text_is_at_0_and_less_of_it_is_at_its_floor(english, reference):
    held = english[2500:]
    assert reference.judge(held).divergence == pytest.approx((0, 0), abs=1e-12)
    floors = [reference.judge(english[:n]).divergence[1] for n in (16, 64, 256)]
    assert 0 < floors[2] < floors[1] < floors[0] < 1


def test_entropies_of_texts_that_can_be_told():
    reference = TextReference.fit(["abab"], ["ab"])
    same = reference.judge(["aaaa"] * 3)
    assert (same.unigram_entropy, same.conditional_entropy) == (0, 0)
    turns = reference.judge(["ab" * 100])
    assert turns.unigram_entropy == pytest.approx(1)
    assert turns.conditional_entropy == pytest.approx(0, abs=1e-12)
    rng = np.random.default_rng(0)
    chance = reference.judge(["".join(rng.choice(["a", "b"], 20_000))])
    assert chance.conditional_entropy == pytest.approx(1, abs=2e-3)


# Words


def test_variety_and_repetition_of_a_constant_text():
    words = ["the"] * 10
    assert [distinct([words], n) for n in (1, 2, 3)] == pytest.approx([1 / 10, 1 / 9, 1 / 8])
    assert distinct([words, words], 1) == pytest.approx(1 / 20)
    assert repetition([words], 3) == pytest.approx(7 / 8)
    assert repetition([words, ["a", "b", "c"]], 3) == pytest.approx(7 / 16)
    assert repetition([list("abcdef")], 3) == 0
    assert math.isnan(distinct([["a"]], 2))
    assert math.isnan(repetition([["a"]], 2))


def levenshtein(a: str, b: str) -> int:
    if not (a and b):
        return len(a) + len(b)
    return min(
        levenshtein(a[1:], b) + 1, levenshtein(a, b[1:]) + 1, levenshtein(a[1:], b[1:]) + (a[0] != b[0])
    )


def test_the_nearest_word_is_that_of_the_slow_twin():
    rng = random.Random(1)

    def word():
        return "".join(rng.choices("abc", k=rng.randint(1, 6)))

    known = [word() for _ in range(25)]
    vocabulary = Vocabulary(["x " + " ".join(known) + " x"])
    for _ in range(60):
        new = word()
        expected = min(FARTHEST, min(levenshtein(new, each) for each in known))
        assert vocabulary.distance(new) == expected
    assert vocabulary.distance("zzzzzzzzzz") == FARTHEST


def test_known_words_and_edits_count_what_is_not_cut_off():
    vocabulary = Vocabulary(["so the cat sat on the mat he"])
    assert vocabulary.known == {"the", "cat", "sat", "on", "mat"}
    words = ["the", "cat", "cta", "xat"]
    assert vocabulary.known_share(words) == 0.5
    assert vocabulary.mean_distance(words) == pytest.approx((2 + 1) / 2)
    assert math.isnan(vocabulary.mean_distance(["the"]))
    assert vocabulary.mean_distance(["cta"] * 3 + ["xat"]) == pytest.approx((3 * 2 + 1) / 4)


# All together


def test_real_text_beats_unigram_text_in_every_number_that_orders_them(english):
    found = text_quality(english[:64], english[2500:], english[:2500])
    real, unigram = found.real, found.unigram
    assert real.bits_per_character < unigram.bits_per_character
    assert real.conditional_entropy < unigram.conditional_entropy
    assert all(a < b for a, b in zip(real.divergence, unigram.divergence, strict=True))
    assert real.known_words > unigram.known_words
    assert all(a < b for a, b in zip(real.distinct, unigram.distinct, strict=True))
    assert real.unigram_entropy == pytest.approx(unigram.unigram_entropy, abs=0.05)
    assert real.num_texts == unigram.num_texts == found.samples.num_texts == 64
    assert real.num_characters == unigram.num_characters == 64 * 128


def test_unigram_text_follows_the_frequencies_of_the_training_text(reference):
    (drawn,) = reference.unigram([20_000], seed=1)
    assert drawn == reference.unigram([20_000], seed=1)[0] != reference.unigram([20_000], seed=2)[0]
    expected = reference.model.counts[0]
    letters = [reference.letters.known[run - 1] for run in expected.runs]
    from scipy.stats import chisquare

    observed = [drawn.count(letter) for letter in letters]
    assert chisquare(observed, 20_000 * expected.counts / expected.counts.sum()).pvalue > 1e-3


def test_the_judge_takes_equally_many_of_each_and_says_how_much_it_knows(english):
    found = text_quality(english[:30], english[2500:2520], iter(english[:100]), order=3)
    assert found.samples.num_texts == 10
    assert (found.num_train, found.num_heldout, found.order) == (100 * 128, 10 * 128, 3)
    numbers = found.as_dict()
    assert numbers["samples"].keys() == numbers["real"].keys()
    assert {"bits_per_character", "divergence_4", "distinct_3", "repetition"} <= numbers["samples"].keys()
    again = text_quality(english[:30], english[2500:2520], english[:100], order=3)
    assert json.dumps(found.as_dict()) == json.dumps(again.as_dict())  # NaN is NaN there


def test_of_training_text_no_more_is_read_than_is_used(english):
    read = []

    def texts():
        for text in english:
            read.append(text)
            yield text

    reference = TextReference.fit(texts(), english[:2], characters=1000)
    assert reference.num_characters == 1000
    assert len(read) == 8


def test_any_characters_will_do_and_so_will_no_words():
    reference = TextReference.fit(["中文字符 ünï 💡"], ["文字"])
    judged = reference.judge(["", "?!", "💡字"]).as_dict()
    assert math.isfinite(judged["bits_per_character"])
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))
    assert math.isfinite(TextReference.fit([many], [many]).judge([many]).bits_per_character)


@pytest.mark.parametrize(("train", "held"), [([], ["a"]), ([""], ["a"]), (["a"], []), (["a"], [""])])
def test_nothing_to_learn_from_or_to_compare_with_is_refused(train, held):
    with pytest.raises(DataError, match="give more"):
        TextReference.fit(train, held)
    with pytest.raises(DataError, match="too few"):
        text_quality(["a"], ["a"], ["a"])


# A language model


@pytest.fixture(scope="module")
def gpt(tmp_path_factory) -> Path:
    """A GPT-2 of random weights with 12 positions, and a tokenizer of characters, in a folder."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("gpt")
    vocab = {"<|end|>": 0, "?": 1} | {c: n for n, c in enumerate(" abcdefgh", start=2)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(vocab),
        n_positions=12,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@torch.no_grad()
def surprise(judge: LanguageModel, text: str) -> list[float]:
    """The slow twin: one token, one call, one text; what a window of 12 lets it see, in steps of 6."""
    row = [0, *judge.tokenizer(text)["input_ids"]]
    found = []
    for i in range(1, len(row)):
        start = 0 if i < 12 else 6 * ((i - 12) // 6 + 1)
        if i >= 12:  # the last window is as full as it can be
            stop = min(len(row), 12 + 6 * ((i - 12) // 6 + 1))
            start = stop - 12
        logits = judge.model(input_ids=torch.tensor([row[start:i]])).logits[0, -1]
        found.append(float(-logits.log_softmax(-1)[row[i]]))
    return found


def test_perplexity_is_that_of_a_computation_token_by_token(gpt):
    judge = LanguageModel.load(str(gpt))
    assert judge.context == 12
    texts = ["abc", "", "a", "deadbeef cab", "a bad cafe had a faded facade " * 3]
    by_hand = [nats for text in texts for nats in surprise(judge, text)]
    score = judge.score(texts)
    assert (score.tokens, score.characters) == (len(by_hand), sum(map(len, texts)))
    assert score.nats == pytest.approx(sum(by_hand), rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(np.mean(by_hand)), rel=1e-5)
    assert score.bits_per_character == pytest.approx(np.mean(by_hand) / math.log(2), rel=1e-5)


def test_texts_are_scored_each_by_itself(gpt):
    judge = LanguageModel.load(str(gpt), context=7)
    texts = ["ab" * k for k in range(12)]
    assert judge.score(texts).nats == pytest.approx(sum(judge.score([t]).nats for t in texts), rel=1e-5)


def test_a_reference_tells_the_language_models_numbers_too(gpt):
    reference = TextReference.fit(["abc"], ["abc"], language_model=LanguageModel.load(str(gpt)))
    numbers = reference.judge(["bad cab"]).as_dict()
    expected = reference.language_model.score(["bad cab"])
    assert numbers["language_model_perplexity"] == expected.perplexity
    assert numbers["language_model_bits_per_character"] == expected.bits_per_character


def test_a_gguf_file_is_a_file_of_its_folder(gpt, monkeypatch):
    import transformers

    asked = []
    for name in ("AutoModelForCausalLM", "AutoTokenizer"):
        kind = getattr(transformers, name)
        load = kind.from_pretrained

        def fake(place, gguf_file=None, load=load):
            asked.append((place, gguf_file))
            return load(place)

        monkeypatch.setattr(kind, "from_pretrained", fake)
    LanguageModel.load(str(gpt / "tiny.Q4_K.gguf"))
    assert asked == [(str(gpt), "tiny.Q4_K.gguf")] * 2


def test_a_language_model_that_is_none_is_refused_in_a_line(gpt, tmp_path):
    with pytest.raises(ConfigError) as error:
        LanguageModel.load(str(tmp_path))
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "name a folder" in str(error.value)
    with pytest.raises(ConfigError, match="context is 13: this language model takes 2 … 12"):
        LanguageModel.load(str(gpt), context=13)
    judge = LanguageModel.load(str(gpt))
    judge.tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="neither a beginning nor an end token"):
        LanguageModel(judge.model, judge.tokenizer)
