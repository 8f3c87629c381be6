"""Render chat templates, and detect how a template handles thoughts.

A template may end the prompt with `<think>` and a line break (Qwen3-Thinking-2507, QwQ, R1 distills), close an empty
pair of tags so that the model does not think, or leave both tags to the model. To give training, pairs, evaluation and
judges the whole response, `sampling.text.decode_responses` prepends the part that is in the prompt, and `whole_text`
joins thoughts that a server returns separately.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from socialr1_jax.data.template_trial import refuse_endless
from socialr1_jax.runtime.terminal import printable

Thoughts = Literal["opens", "closes", "leaves"]  # the prompt opens them, closes empty ones, or leaves them to the model

_QUESTION = "Where will Ann look?"
_TAG = re.compile("</?think>")
_PRIVATE_USE = range(0xF0000, 0xFFFFE)  # characters without a meaning
_AT_ONCE = 1024  # chats encoded per call; bounds memory, since the library needs over 100 bytes per token
_AT_THE_END = re.compile(r"(?:<think>\s{0,20})?</think>\s{0,20}\Z|<think>\s{0,20}\Z")


def thoughts_in_prompt(tokenizer: Any) -> Thoughts:
    """Return what a prompt does with the model's thoughts. Raises ValueError as `chat_tokens` does."""
    opening = response_opening(tokenizer)
    return "closes" if "</think>" in opening else "opens" if opening else "leaves"


def response_opening(tokenizer: Any, thinking: bool = True) -> str:
    """Return the part of a response in the prompt, such as "<think>\\n"; "" if there is none or no template."""
    if not tokenizer.chat_template:
        return ""
    return _opening(tokenizer, str(tokenizer.chat_template), thinking)


@lru_cache(16)  # called for every response
def _opening(tokenizer: Any, template: str, thinking: bool) -> str:
    turn = [{"role": "user", "content": _QUESTION}]
    prompt, before = (_rendered(tokenizer, turn, thinking, header=header) for header in (True, False))
    # Search the header of the assistant's turn; if the template has none, search the end of the prompt.
    header = prompt.removeprefix(before) if before != prompt and prompt.startswith(before) else ""
    tag = _TAG.search(header) or _AT_THE_END.search(prompt.rpartition(_QUESTION)[2])
    if tag is None:
        return ""
    return "<think>" * (tag[0][:7] != "<think>") + tag.string[tag.start() :]


def whole_text(message: Mapping[str, Any], *, cut: bool) -> str:
    """Return a message's text with its thoughts in front, wherever the server put them; cut thoughts stay open.

    Args:
        message: message of a choice; `content` may be a string, a list of parts, null or absent.
        cut: whether the reply reached its limit of tokens. A cut reply without `</think>` is taken as thoughts, since
            the chat template may have opened them.
    """
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    thoughts, text = _text(message.get("reasoning_content") or message.get("reasoning")), ""
    for part in parts:
        kind = str(part.get("type", "text")) if isinstance(part, Mapping) else "text"
        if kind in ("text", "output_text"):
            text += _text(part)
        elif isinstance(part, Mapping):
            thoughts += _text(part.get(kind) or part)
    if thoughts:
        end = "" if cut and not text.strip() else f"</think>{text}"
        return f"<think>{thoughts.replace('</think>', '')}{end}"
    return f"<think>{text}" if cut and "</think>" not in text else text


def _text(part: Any) -> str:
    if isinstance(part, Mapping):
        part = part.get("text")
    return "".join(map(_text, part)) if isinstance(part, list) else part if isinstance(part, str) else ""


def chat_tokens(tokenizer: Any, messages: Sequence[Mapping[str, str]], thinking: bool = True) -> list[int]:
    """Return the token ids of a chat up to and including the header of the assistant's turn.

    Only the tokenizer's chat template can produce special tokens: `<|im_start|>` in a message is encoded as text. With
    `thinking` false, templates like Qwen3's add empty thoughts, so that the model answers at once.

    Raises ValueError if the tokenizer has no chat template, or one that does not accept these messages.
    """
    (tokens,) = tokens_of_chats(tokenizer, [messages], thinking)
    return tokens


def tokens_of_chats(
    tokenizer: Any, chats: Sequence[Sequence[Mapping[str, str]]], thinking: bool = True
) -> Iterator[list[int]]:
    """Yield `chat_tokens` of each chat; chats without special tokens are encoded in batches."""
    listed = tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    special = _any_of(listed)
    options = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
    for start in range(0, len(chats), _AT_ONCE):
        part = chats[start : start + _AT_ONCE]
        holding = [any(special.search(message["content"]) for message in messages) for messages in part]
        plain = [messages for messages, holds in zip(part, holding, strict=True) if not holds]
        texts = [_rendered(tokenizer, messages, thinking) for messages in plain]
        ids = iter(tokenizer(texts, **options)["input_ids"] if texts else ())
        for messages, holds in zip(part, holding, strict=True):
            yield _with_stand_ins(tokenizer, special, messages, thinking) if holds else list(next(ids))


def _with_stand_ins(
    tokenizer: Any, special: re.Pattern[str], messages: Sequence[Mapping[str, str]], thinking: bool
) -> list[int]:
    """Return `chat_tokens` of messages with special tokens, replacing each by an unused character for rendering."""
    used = set().union(*(special.findall(message["content"]) for message in messages))
    written = "".join(message["content"] for message in messages)
    free = (character for character in map(chr, _PRIVATE_USE) if character not in written)
    stand_ins = dict(zip(sorted(used), free, strict=False))
    texts = [special.sub(lambda match: stand_ins[match[0]], message["content"]) for message in messages]
    chat = [{**message, "content": text} for message, text in zip(messages, texts, strict=True)]
    pieces = re.split(f"({special.pattern})", _rendered(tokenizer, chat, thinking))
    back = str.maketrans({character: token for token, character in stand_ins.items()})
    ids = plain_tokens(tokenizer, [piece.translate(back) for piece in pieces[::2]])
    for i, token in enumerate(pieces[1::2]):
        ids[i].append(tokenizer.convert_tokens_to_ids(token))
    return [token for piece in ids for token in piece]


def plain_tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts of users and models; `<|im_end|>` is encoded as text."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
    return list(map(list, encoded["input_ids"]))


@lru_cache
def _any_of(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern that matches any of these tokens, the longest first; it never matches if there are none."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, str]], thinking: bool, *, header: bool = True) -> str:
    name = tokenizer.name_or_path
    if not tokenizer.chat_template:
        raise ValueError(f"{name} has no chat template: put the model's tokenizer files beside its weights")
    options = {"add_generation_prompt": header, "enable_thinking": thinking, "thinking": thinking}
    try:
        refuse_endless(tokenizer.get_chat_template(), tokenizer.special_tokens_map)
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
        for message in messages:
            if message["role"] != "assistant" and message["content"].strip() not in text:
                raise ValueError(f"it drops the text of the {message['role']}'s message")
    except Exception as error:  # a template may raise anything
        reason = printable(str(error), 300) or type(error).__name__
        fix = "put the model's own chat_template.jinja there"
        raise ValueError(f"the chat template of {name} cannot be rendered: {reason}; {fix}") from None
    return text
