"""Codecs lose nothing, say what they do not know, and survive being saved."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d3pm.data import TextCodec
from d3pm.data.normalize import TEXT8_ALPHABET, rechunk
from d3pm.data.tokenizers import load_tokenizer
from d3pm.errors import ConfigError, DataError

CHARACTERS = TextCodec.characters()
ENGLISH = "It was the best of times, it was the worst of times; naïve café 東京 🙂 _ 42.\n" * 30


@pytest.fixture(scope="module")
def byte_pairs() -> TextCodec:
    return TextCodec.byte_pairs([ENGLISH], vocab_size=300)


def round_trip(codec: TextCodec, text: str) -> str:
    return codec.decode(codec.encode(text)[None])[0]


def tokenizer_ids(codec: TextCodec, text: str) -> list[int]:
    return codec.tokenizer(text, add_special_tokens=False)["input_ids"]


class TestCharacters:
    def test_text8_symbols_are_numbered_from_space_to_z(self):
        assert CHARACTERS.num_symbols == 27
        assert CHARACTERS.encode(" abcdefghijklmnopqrstuvwxyz").tolist() == list(range(27))
        assert CHARACTERS.encode("abc").dtype == torch.int64

    @given(st.text(alphabet=TEXT8_ALPHABET))
    def test_round_trip(self, text):
        assert round_trip(CHARACTERS, text) == text

    @given(st.text(alphabet=TEXT8_ALPHABET))
    def test_the_table_gives_what_the_tokenizer_gives(self, text):
        assert CHARACTERS.encode(text).tolist() == tokenizer_ids(CHARACTERS, text)

    @given(st.lists(st.characters(), min_size=2, max_size=20, unique=True), st.data())
    def test_any_alphabet(self, alphabet, data):
        codec = TextCodec.characters("".join(alphabet))
        text = data.draw(st.text(alphabet=alphabet))
        assert codec.alphabet == "".join(alphabet)
        assert round_trip(codec, text) == text
        assert codec.encode(text).tolist() == tokenizer_ids(codec, text)

    @pytest.mark.parametrize("symbol", ["A", "\n", "é", "🙂", "\ud800"])
    def test_an_unknown_symbol_is_named_with_its_place(self, symbol):
        with pytest.raises(DataError) as caught:
            CHARACTERS.encode("abc" + symbol + "def" + symbol)
        message = str(caught.value)
        assert repr(symbol) in message
        assert "position 3" in message
        assert repr(TEXT8_ALPHABET) in message
        assert "normalize" in message
        assert "\n" not in message

    def test_places_count_through_all_pieces(self):
        with pytest.raises(DataError, match="position 8;"):
            list(CHARACTERS.encode_all(["abcd", "efg", "hIj"]))

    @pytest.mark.parametrize("alphabet", ["", "a", "abca"])
    def test_bad_alphabet(self, alphabet):
        with pytest.raises(ConfigError, match="alphabet"):
            TextCodec.characters(alphabet)


class TestDecode:
    def test_the_mask_is_shown(self):
        x = CHARACTERS.encode("a cat")
        x[[0, 4]] = CHARACTERS.num_symbols
        assert CHARACTERS.decode(torch.stack([x, x])) == ["_ ca_", "_ ca_"]

    def test_the_mask_is_no_symbol_of_the_text(self, byte_pairs):
        assert TextCodec.characters("ab_").mask_sign not in "ab_"
        assert byte_pairs.mask_sign not in byte_pairs.tokenizer.get_vocab()

    def test_masked_byte_pairs(self, byte_pairs):
        x = byte_pairs.encode("the best of times")
        shown = [byte_pairs.decode(x[i : i + 1][None])[0] for i in range(len(x))]
        x[[0, 2, 3, -1]] = byte_pairs.num_symbols
        for i in (0, 2, 3, -1):
            shown[i] = byte_pairs.mask_sign
        assert byte_pairs.decode(x[None]) == ["".join(shown)]

    @pytest.mark.parametrize("x", [torch.tensor([[0, 28]]), torch.tensor([[-1]])])
    def test_symbols_out_of_range(self, x):
        with pytest.raises(DataError, match=r"outside 0 … 27"):
            CHARACTERS.decode(x)

    @pytest.mark.parametrize("x", [torch.tensor([0]), torch.zeros(1, 2)])
    def test_no_batch_of_integers(self, x):
        with pytest.raises(DataError, match="no batch of rows"):
            CHARACTERS.decode(x)

    def test_empty_rows(self):
        assert CHARACTERS.decode(torch.zeros(2, 0, dtype=torch.int64)) == ["", ""]


class TestBytePairs:
    def test_as_many_symbols_as_asked_for(self, byte_pairs):
        assert byte_pairs.num_symbols == 300
        assert byte_pairs.alphabet is None
        assert len(byte_pairs.encode(ENGLISH)) < len(ENGLISH) / 1.5

    @given(text=st.text())
    def test_round_trip_of_any_text(self, byte_pairs, text):
        assert round_trip(byte_pairs, text) == text

    def test_training_is_deterministic_and_blind_to_pieces(self, byte_pairs):
        again = TextCodec.byte_pairs(rechunk([ENGLISH], size=50), vocab_size=300)
        assert again.tokenizer.get_vocab() == byte_pairs.tokenizer.get_vocab()

    def test_pieces_do_not_show_in_the_symbols(self, byte_pairs):
        whole = byte_pairs.encode(ENGLISH).tolist()
        pieces = np.concatenate(list(byte_pairs.encode_all(rechunk([ENGLISH], size=50)))).tolist()
        assert pieces == whole

    def test_too_small_a_text(self):
        with pytest.raises(DataError, match="yields 258 of 400"):
            TextCodec.byte_pairs(["abab"], vocab_size=400)


class TestSaving:
    @pytest.mark.parametrize("kind", ["characters", "byte_pairs"])
    def test_a_saved_codec_is_the_same(self, kind, byte_pairs, tmp_path):
        codec = CHARACTERS if kind == "characters" else byte_pairs
        codec.save_pretrained(tmp_path)
        again = TextCodec.from_pretrained(tmp_path)
        text = "it was the best of times"
        assert again == codec
        assert hash(again) == hash(codec)
        assert again.num_symbols == codec.num_symbols
        assert again.alphabet == codec.alphabet
        assert again.encode(text).tolist() == codec.encode(text).tolist()
        assert round_trip(again, text) == text

    def test_a_codec_beside_a_model(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
        CHARACTERS.save_pretrained(tmp_path)
        assert TextCodec.from_pretrained(tmp_path).alphabet == TEXT8_ALPHABET

    def test_a_single_file(self, byte_pairs, tmp_path):
        byte_pairs.save_pretrained(tmp_path)
        again = TextCodec.from_pretrained(tmp_path / "tokenizer.json")
        assert again.encode(ENGLISH).tolist() == byte_pairs.encode(ENGLISH).tolist()

    def test_pickling(self):
        assert round_trip(pickle.loads(pickle.dumps(CHARACTERS)), "a cat") == "a cat"

    def test_by_its_name_on_the_hub(self, byte_pairs, tmp_path, monkeypatch):
        byte_pairs.save_pretrained(tmp_path)
        asked = []
        monkeypatch.setattr(
            "huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(tmp_path)
        )
        assert TextCodec.from_pretrained("somebody/something") == byte_pairs
        assert asked == ["somebody/something"]

    def test_a_name_on_the_hub_out_of_reach(self):
        with pytest.raises(DataError, match=r"'somebody/something' .* cannot be had from the hub") as caught:
            TextCodec.from_pretrained("somebody/something")
        assert "\n" not in str(caught.value)

    def test_no_codec_there(self, tmp_path):
        with pytest.raises(DataError, match=r"no .*tokenizer\.json"):
            TextCodec.from_pretrained(tmp_path)

    @pytest.mark.parametrize("content", ["", "{", '{"version": "1.0"}'])
    @pytest.mark.parametrize("as_folder", [True, False])
    def test_a_broken_file(self, content, as_folder, tmp_path):
        file = tmp_path / "tokenizer.json"
        file.write_text(content)
        with pytest.raises(DataError, match="cannot be read") as caught:
            TextCodec.from_pretrained(tmp_path if as_folder else file)
        assert "\n" not in str(caught.value)


class TestEquality:
    def test_made_twice(self, byte_pairs):
        assert TextCodec.characters() == CHARACTERS
        assert TextCodec.byte_pairs([ENGLISH], vocab_size=300) == byte_pairs
        assert len({CHARACTERS, TextCodec.characters(), byte_pairs}) == 2

    def test_another_alphabet_of_the_same_size(self):
        assert TextCodec.characters(TEXT8_ALPHABET[::-1]) != CHARACTERS
        assert TextCodec.characters(TEXT8_ALPHABET.upper()) != CHARACTERS

    def test_other_byte_pairs_of_the_same_size(self, byte_pairs):
        other = TextCodec.byte_pairs([ENGLISH.swapcase()], vocab_size=300)
        assert other.num_symbols == byte_pairs.num_symbols
        assert other != byte_pairs

    def test_truncation_and_padding_which_are_never_used(self):
        other = TextCodec.characters()
        other.tokenizer.backend_tokenizer.enable_truncation(2)
        other.tokenizer.backend_tokenizer.enable_padding(length=8)
        assert other == CHARACTERS

    def test_something_else(self):
        assert CHARACTERS != TEXT8_ALPHABET


class TestLoadedTokenizers:
    """A tokenizer that others made may know an "unknown" symbol: it must not swallow text."""

    @pytest.fixture
    def words(self) -> TextCodec:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        backend = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "cat": 2}, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return TextCodec(PreTrainedTokenizerFast(tokenizer_object=backend))

    def test_an_unknown_word_is_named_with_its_place(self, words):
        assert words.encode("a cat").tolist() == [1, 2]
        with pytest.raises(DataError, match="unknown symbol 'dog' at position 12;"):
            list(words.encode_all(["a cat", " a cat dog a"]))

    def test_the_unknown_symbol_written_out_is_text(self, words):
        assert words.encode("a <unk> cat").tolist() == [1, 0, 2]

    def test_one_saved_with_truncation_and_padding_loses_nothing(self, words):
        words.tokenizer.backend_tokenizer.enable_truncation(2)
        words.tokenizer.backend_tokenizer.enable_padding(length=8)
        assert words.encode("a cat a cat").tolist() == [1, 2, 1, 2]

    def test_words_are_not_taken_for_characters(self):
        from tokenizers import Tokenizer, models, normalizers
        from transformers import PreTrainedTokenizerFast

        backend = Tokenizer(models.WordLevel({"a": 0, "b": 1}))
        backend.normalizer = normalizers.Lowercase()
        codec = TextCodec(PreTrainedTokenizerFast(tokenizer_object=backend))
        assert codec.alphabet is None
        assert codec.encode("A").tolist() == [0]

    def test_a_hub_name_offline(self):
        with pytest.raises(DataError, match="cannot be had from the hub") as caught:
            load_tokenizer("nobody/no-such-tokenizer")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["./nothing", "~/no-such-folder-at-all", "no/tokenizer.json"])
    def test_a_path_that_is_not_there(self, name):
        with pytest.raises(DataError, match="no file"):
            load_tokenizer(name)
