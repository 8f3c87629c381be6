"""Train a small tokenizer like Qwen3's.

It uses byte-level BPE, Qwen's splitting into words and numbers, Qwen3's tokens for turns and thoughts, and a chat
template of the same form. It is saved as a Qwen2Tokenizer, the class of the published Qwen3 tokenizers, so the same
code loads both.
"""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

# Contractions, words with one preceding symbol or space, single digits, runs of symbols, line ends, spaces.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Not special tokens: decoding with skip_special_tokens keeps them, and rewards need them.
THINK_TOKENS = ("<think>", "</think>")
END_OF_TURN, PADDING = "<|im_end|>", "<|endoftext|>"

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{%- endif -%}"""


def build_tokenizer(texts: Iterable[str], vocab_size: int, words: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """Train a tokenizer with at most `vocab_size` ids on `texts`; the result is deterministic.

    With `words`, text is split at these words instead of by Qwen's rule. Each is always one token, and the phrases
    between them may become single tokens, too. A model of a million parameters needs few and consistent tokens: on the
    quickstart's stories this halves the 256 tokens of a row.

    The ids are 256 bytes, then merges by descending frequency (so frequent words with their leading space are one
    token), then the special tokens, as in Qwen3. A turn ends with `<|im_end|>`; padding is `<|endoftext|>`. Raises
    ValueError if `vocab_size` leaves no room for a merge.
    """
    added = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    added += [AddedToken(token, special=False, normalized=False) for token in THINK_TOKENS]
    merged_size = vocab_size - len(added)
    if merged_size <= 256:
        raise ValueError(f"vocab_size {vocab_size} has no room: 256 bytes and {len(added)} special tokens come first")

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_around(words) if words else SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=merged_size,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_parts(texts), trainer)
    tokenizer.add_tokens(added)

    settings = {
        # Qwen2Tokenizer, the class of the published Qwen3 tokenizers, replaces the splitting rule by Qwen's.
        "tokenizer_class": "PreTrainedTokenizerFast" if words else "Qwen2Tokenizer",
        "chat_template": CHAT_TEMPLATE,
        "eos_token": END_OF_TURN,
        "pad_token": PADDING,
        "unk_token": None,
        "bos_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
    }
    # Load from files: every release of transformers reads them alike.
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(str(Path(folder) / "tokenizer.json"))
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return AutoTokenizer.from_pretrained(folder)


def _around(words: Sequence[str]) -> str:
    """Return a pattern that matches any of the words as a whole word."""
    alone = []
    for word in sorted(words, key=lambda word: (-len(word), word)):  # the longest first
        before, after = "(?<![A-Za-z])" * word[0].isalpha(), "(?![A-Za-z])" * word[-1].isalpha()
        alone.append(before + re.escape(word) + after)
    return "|".join(alone)


def _training_parts(texts: Iterable[str]) -> Iterator[str]:
    # The trainer does not know the added tokens: without this split, "<think" would waste a merge.
    edges = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS + THINK_TOKENS))
    for text in texts:
        yield from edges.split(text)
        # Every prompt has these headers; without their merges it is 11 tokens longer.
        yield from ("user", "assistant")
