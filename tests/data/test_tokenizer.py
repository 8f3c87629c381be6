"""The tokenizer built on the spot: exact round trips, Qwen3's behaviour, files that others read, determinism."""

import functools
import hashlib
import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from socialr1_jax.data.tokenizer import SPECIAL_TOKENS, SPLIT, THINK_TOKENS, build_tokenizer

transformers = pytest.importorskip("transformers")
ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT.parent / "shared" / "qwen3-tokenizer"
TEXTS = [
    f"{name} put the {thing} in the {place}. Where will {name} look for the {thing}?\n<think>\nIt's there.\n</think>\n"
    for name in ("Anna", "Ben", "Clara")
    for thing in ("ball", "apple")
    for place in ("basket", "drawer")
]
VOCAB_SIZE = 420
MESSAGES = [{"role": "user", "content": "Where is Ben?"}]


@functools.cache
def build_once():
    return build_tokenizer(TEXTS, VOCAB_SIZE)


@pytest.fixture(scope="module")
def tokenizer():
    return build_once()


def test_ids_fit_the_vocabulary(tokenizer):
    ids = sorted(tokenizer.get_vocab().values())
    assert ids == list(range(len(ids)))
    assert len(ids) == len(tokenizer) <= VOCAB_SIZE
    # as in Qwen3, the added tokens come last
    assert tokenizer.convert_tokens_to_ids([*SPECIAL_TOKENS, *THINK_TOKENS]) == ids[-5:]
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>", None)


def test_vocabulary_size_is_used_with_enough_texts(tokenizer):
    assert len(build_tokenizer(TEXTS, 300)) == 300


@given(st.text(max_size=60))
def test_any_text_round_trips(text):
    tokenizer = build_once()
    text = unicodedata.normalize("NFC", text)  # Qwen's tokenizer normalises as well
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_frequent_words_are_one_token_with_their_space(tokenizer):
    for word in (" the", " put", " look", " Anna", " Ben", " ball", " basket", " will"):
        assert len(tokenizer.tokenize(word)) == 1, word
    assert tokenizer.tokenize("<think>\n") == ["<think>", "Ċ"]


def test_think_tags_survive_decoding_and_turn_tokens_vanish(tokenizer):
    text = "<think>\nAnna put\n</think>\n\n<Answer>B</Answer>"
    tokens = tokenizer(text + "<|im_end|><|endoftext|>")["input_ids"]
    assert tokens[0] == tokenizer.convert_tokens_to_ids("<think>")
    assert tokens[-2:] == [tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text


def test_no_merge_is_spent_on_the_tags():
    words = build_tokenizer(["<think>" * 3 + "</think>"] * 50 + ["ab ab"], 270).get_vocab()
    assert not [token for token in words if "thin" in token and token not in THINK_TOKENS]


def test_chat_template(tokenizer):
    render = lambda messages, **options: tokenizer.apply_chat_template(messages, tokenize=False, **options)  # noqa: E731
    turn = "<|im_start|>user\nWhere is Ben?<|im_end|>\n"
    assert render(MESSAGES) == turn
    assert render(MESSAGES, add_generation_prompt=True) == turn + "<|im_start|>assistant\n"
    assert render(MESSAGES, add_generation_prompt=True, enable_thinking=True) == turn + "<|im_start|>assistant\n"
    assert render(MESSAGES, add_generation_prompt=True, enable_thinking=False) == (
        turn + "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    whole = [{"role": "system", "content": "Be brief."}, *MESSAGES, {"role": "assistant", "content": "Away."}]
    assert render(whole) == (f"<|im_start|>system\nBe brief.<|im_end|>\n{turn}<|im_start|>assistant\nAway.<|im_end|>\n")


@pytest.mark.skipif(not PUBLISHED.exists(), reason="no published tokenizer here")
def test_splitting_and_template_match_the_published_tokenizer(tokenizer):
    published = transformers.AutoTokenizer.from_pretrained(PUBLISHED)
    text = "Don't  put 123 apples\n\n in the red_box, Zoë!?\r\n  <|x|> 日本語\t end  "
    split = lambda t: t.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)  # noqa: E731
    assert split(tokenizer) == split(published)
    assert SPLIT in json.dumps(json.loads((PUBLISHED / "tokenizer.json").read_text())["pre_tokenizer"]).replace(
        "\\\\", "\\"
    )
    whole = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    for options in ({}, {"enable_thinking": False}):
        ours, theirs = (
            t.apply_chat_template(whole, tokenize=False, add_generation_prompt=True, **options)
            for t in (tokenizer, published)
        )
        assert ours == theirs


@pytest.mark.parametrize("with_config", [False, True])
def test_saved_folder_reads_back_to_the_same_ids(tokenizer, tmp_path, with_config):
    tokenizer.save_pretrained(tmp_path)
    if with_config:  # as in an exported model's folder, where the model type has a say in the class
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is type(tokenizer)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert (again.eos_token_id, again.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    options = {"add_generation_prompt": True, "return_dict": False}
    assert again.apply_chat_template(MESSAGES, **options) == tokenizer.apply_chat_template(MESSAGES, **options)
    for text in [*TEXTS, " It's  Zoë's\n\n12 😀 <think>x</think><|im_end|>"]:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again.decode(again(text)["input_ids"]) == text


def test_equal_texts_give_equal_tokenizers_across_processes(tokenizer):
    code = (
        "import hashlib, sys, json; from socialr1_jax.data.tokenizer import build_tokenizer\n"
        f"t = build_tokenizer(json.load(sys.stdin), {VOCAB_SIZE})\n"
        "print(hashlib.sha256(t.backend_tokenizer.to_str().encode()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(TEXTS),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size 261 has no room: 256 bytes and 5 special tokens"):
        build_tokenizer(TEXTS, 261)


def test_given_words_are_one_token_wherever_they_stand():
    words = ("Anna", "box", "A", "B", "A. ", "B. ")
    texts = ["Anna puts it in the box. A. box\nB. bag. The answer is A.", "Is Anna in? B. box"] * 40
    tokenizer = build_tokenizer(texts, 400, words)
    ids = {word: tokenizer.encode(word, add_special_tokens=False) for word in words}
    assert all(len(tokens) == 1 for tokens in ids.values()), ids
    encoded = tokenizer.encode(texts[0], add_special_tokens=False)
    for word, count in (("Anna", 1), ("box", 2), ("A. ", 1), ("A", 1)):
        assert encoded.count(ids[word][0]) == count, word
    assert tokenizer.decode(encoded) == texts[0]
    assert ids["Anna"][0] not in tokenizer.encode("Annas", add_special_tokens=False)


def test_tokenizer_with_words_reloads_from_its_folder(tmp_path):
    tokenizer = build_tokenizer(["Anna and Ben are in the hall."] * 9, 400, ("Anna", "Ben", "hall"))
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|im_start|>user\nAnna is in the hall, <think>Ben</think> not.<|im_end|>"
    assert again.encode(text) == tokenizer.encode(text)
    assert again.decode(again.encode(text)) == text
