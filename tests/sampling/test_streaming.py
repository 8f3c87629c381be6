"""A response as it comes: whole characters only, nothing lost, and the token that ends it left out."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socialr1_jax import SamplingParams
from socialr1_jax.data.tokenizer import build_tokenizer
from socialr1_jax.sampling.batch import Segment
from socialr1_jax.sampling.streaming import ResponseStream

# Trained on these alone, so that every other character is spread over one token a byte.
TOKENIZER = build_tokenizer(["the drawer the drawer the shelf"] * 2, 300)
STOP = TOKENIZER.eos_token_id


def stream(segments, prompt=(1, 2, 3), stops=(STOP,), positions=100, **sampling):
    """A ResponseStream over made-up segments, and the sampling parameters that its engine was asked for."""
    asked = []

    def stream(prompts, sampling):
        asked.append((prompts, sampling))
        return made_up()

    def made_up():
        last = len(segments) - 1
        for i, ids in enumerate(segments):
            stop = ids[-1] if i == last and ids[-1] in stops else None
            reason = None if i < last else "length" if stop is None else "stop"
            yield Segment(0, list(ids), [0.0] * len(ids), reason, stop)

    engine = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=positions), stream=stream)
    response = ResponseStream(engine, TOKENIZER, list(prompt), SamplingParams(stop_token_ids=stops, **sampling))
    return response, asked


def cut(ids, places):
    """`ids` as consecutive segments, cut at the given places."""
    edges = [0, *sorted({place % len(ids) for place in places} - {0}), len(ids)]
    return [ids[a:b] for a, b in pairwise(edges)]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), min_size=1, max_size=20)
places = st.lists(st.integers(0, 200), max_size=8)


@settings(deadline=None)
@given(text=texts, places=places)
def test_pieces_hold_whole_characters_of_the_text(text, places):
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    text = TOKENIZER.decode(ids)  # the tokenizer normalises (NFC)
    response, _ = stream(cut([*ids, STOP], places))
    pieces = list(response)
    assert "".join(pieces) == response.text == text
    assert "\ufffd" not in "".join(pieces)
    assert "" not in pieces
    assert (response.tokens, response.finish_reason) == (len(ids) + 1, "stop")


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, len(TOKENIZER) - 1).filter(lambda i: i != STOP), min_size=1), places=places)
def test_bytes_without_text_are_shown_as_decoded(ids, places):
    response, _ = stream(cut(ids, places))
    assert "".join(response) == response.text == TOKENIZER.decode(ids)
    assert (response.tokens, response.finish_reason) == (len(ids), "length")


def test_pieces_come_with_their_last_character():
    euro = TOKENIZER.encode("€", add_special_tokens=False)
    assert len(euro) == 3
    (a,) = TOKENIZER.encode("a", add_special_tokens=False)
    response, _ = stream([[a, *euro[:1]], euro[1:2], [*euro[2:], a], [a], [STOP]])
    assert list(response) == ["a", "€a", "a"]


def test_half_a_character_at_the_limit_is_shown():
    euro = TOKENIZER.encode("€", add_special_tokens=False)
    response, _ = stream([euro[:1], euro[1:2]])
    assert list(response) == ["\ufffd"]
    assert response.finish_reason == "length"


def test_half_a_character_before_a_stop_is_shown():
    euro = TOKENIZER.encode("€", add_special_tokens=False)
    response, _ = stream([euro[:2], [STOP]])
    assert list(response) == ["\ufffd"]
    assert response.finish_reason == "stop"


def test_any_stop_token_ends_and_others_are_text():
    (end,) = TOKENIZER.encode("<|endoftext|>", add_special_tokens=False)
    (a,) = TOKENIZER.encode("a", add_special_tokens=False)
    assert "".join(stream([[a, end]], stops=(end, STOP))[0]) == "a"
    assert "".join(stream([[a, end]], stops=(STOP,))[0]) == "a<|endoftext|>"


@pytest.mark.parametrize(("wanted", "given"), [(200, 97), (97, 97), (96, 96)])
def test_limit_is_lowered_to_the_remaining_positions(wanted, given):
    _, [(prompts, sampling)] = stream([[STOP]], max_new_tokens=wanted, n=4, seed=5)
    assert prompts == [[1, 2, 3]]
    assert (sampling.max_new_tokens, sampling.n, sampling.seed) == (given, 1, 5)


def test_a_prompt_that_leaves_no_position():
    stream([[STOP]], prompt=range(99))
    with pytest.raises(ValueError, match="the prompt has 100 tokens, and the model's 100 positions"):
        stream([[STOP]], prompt=range(100))
