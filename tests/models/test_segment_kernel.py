"""The kernels for packed rows on NVIDIA GPUs, interpreted: against float64, blockwise attention, and TRL's gradients.

Blocks are 8 and 4 positions.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socialr1_jax.grpo.packing import Rows
from socialr1_jax.models.attention import causal_attention
from socialr1_jax.models.attention_trial import _attention
from socialr1_jax.models.blockwise import Segments, blockwise_attention
from socialr1_jax.models.segment_kernel import computed_pairs, segment_attention

pytestmark = pytest.mark.usefixtures("segment_kernel")

T, HEADS, KV_HEADS, WIDTH = 37, 4, 2, 12  # neither a multiple of a block nor a power of two
# Units of a row: tokens of the shared beginning, which may be empty, and of the texts after it.
UNITS = st.lists(st.tuples(st.integers(0, 14), st.lists(st.integers(1, 12), min_size=1, max_size=3)), max_size=4)
GROUP = [(9, [5, 6]), (4, [9])]  # a prompt with two responses, another with one; 4 positions are padding
WHOLE = [(0, [37])]


def packed(*rows):
    """Segments of rows of units that fit, and the rows' lengths."""
    own_bt, prefix_bt = np.zeros((2, len(rows), T), np.int32)
    lengths_b = np.zeros(len(rows), np.int32)
    for b, units in enumerate(rows):
        number = 0
        for shared, texts in units:
            prefix = number + 1
            for size in (shared, *texts):
                number += 1
                here = slice(lengths_b[b], lengths_b[b] + size)
                if here.stop <= T:
                    own_bt[b, here], prefix_bt[b, here], lengths_b[b] = number, prefix, here.stop
    return Segments(own_bt, prefix_bt, own_bt), lengths_b


def drawn(rows=1, dtype=np.float32):
    """Queries, keys, values and the gradient of the results."""
    draw = np.random.default_rng(rows)
    return [draw.normal(size=(rows, T, heads, WIDTH)).astype(dtype) for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)]


def pulled(attention, q, k, v, dout):
    """Outputs and the gradients of queries, keys and values."""
    out, pull = jax.vjp(attention, q, k, v)
    return out, *pull(dout)


@jax.jit
def results(*arrays_lengths_segments):
    *arrays, lengths, segments = arrays_lengths_segments
    return pulled(lambda *x: segment_attention(*x, lengths, segments), *arrays)


@jax.jit
def by_blocks(*arrays_segments):
    *arrays, segments = arrays_segments
    return pulled(lambda *x: blockwise_attention(*x, segments), *arrays)


@settings(max_examples=40, deadline=None)
@given(UNITS)
def test_results_and_gradients_equal_float64(units):
    """NaN in the padding reaches nothing, and results and gradients there are zero."""
    segments, (length,) = packed(units)
    arrays = drawn()
    for x in arrays:
        x[:, length:] = np.nan
    found = map(np.asarray, results(*arrays, np.array([length]), segments))  # JAX would compile each slice
    inside = [np.asarray(x[0, :length], np.float64) for x in arrays]
    seen_ts = (np.asarray(segments.seen(slice(None), slice(None)))[0] & np.tri(T, dtype=bool))[:length, :length]
    expected = _attention(*inside, seen_ts) if length else [inside[i] for i in (3, 0, 1, 2)]
    for x, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(x[0, :length], want, rtol=0, atol=5e-6)
        assert not np.any(x[0, length:])


@pytest.mark.parametrize("segments", [packed(GROUP, WHOLE), (None, np.array([T, 20]))], ids=["packed", "whole rows"])
def test_results_equal_blockwise_attention(segments):
    segments, lengths = segments
    *arrays, dout = drawn(2)
    inside = (np.arange(T) < lengths[:, None])[..., None, None]
    dout = np.where(inside, dout, 0)
    expected = by_blocks(*arrays, dout, segments)
    for x, want in zip(results(*arrays, dout, lengths, segments), expected, strict=True):
        np.testing.assert_allclose(np.where(inside, x, 0), np.where(inside, want, 0), rtol=0, atol=5e-6)


def test_bfloat16_rounds_products_alone():
    arrays, (segments, lengths) = drawn(1), packed(GROUP)
    arrays[3][:, lengths[0] :] = 0
    exact = results(*arrays, lengths, segments)
    for x, want in zip(results(*(jnp.asarray(x, "bfloat16") for x in arrays), lengths, segments), exact, strict=True):
        assert x.dtype == "bfloat16"
        assert np.linalg.norm(np.float32(x) - want) < 0.01 * np.linalg.norm(want)


def test_blocks_outside_both_ranges_are_not_read():
    """A NaN in another text and in the first of two responses reaches neither the second one nor their prompt."""
    segments, lengths = packed([(0, [8]), (8, [8, 8])])
    is_nan = (np.arange(T) < 8) | (np.arange(T) // 8 == 2)
    arrays = drawn()
    for x in arrays:
        x[:, is_nan] = np.nan
    out, dq, *_ = results(*arrays, lengths, segments)
    for x in (out, dq):
        np.testing.assert_array_equal(np.isnan(x[0]).any(axis=(1, 2)), is_nan)


def test_computed_pairs_are_those_of_live_blocks():
    """Rows, and how many blocks of 4 keys each block of 8 queries sees."""
    rows = {
        "a triangle, whose last block sees keys up to 40": (WHOLE, [2, 4, 6, 8, 10]),
        "a text, a beginning with two responses, and padding": ([(0, [8]), (8, [8, 8])], [2, 2, 4, 4]),
        "a block with two prompts": ([(8, [8, 4]), (6, [3])], [2, 4, 4, 3]),
        "nothing": ([], []),
    }
    segments, lengths = packed(*(units for units, _ in rows.values()))
    assert computed_pairs(lengths, segments) == 8 * 4 * sum(sum(blocks) for _, blocks in rows.values())


@pytest.mark.parametrize(
    ("own", "prefix", "line"),
    [
        (
            [1, 1, 2, 2, 3],
            [1, 1, 3, 3, 3],
            "position 2 of row 0 is in segment 2 with prefix 3, after segment 1; number",
        ),
        (
            [1, 2, 2, 1, 0],
            [1, 1, 1, 1, 0],
            "position 3 of row 0 is in segment 1 with prefix 1, after segment 2; number",
        ),
    ],
)
def test_segments_that_point_forward_are_refused(own, prefix, line):
    own_bt, prefix_bt = np.array([own]), np.array([prefix])
    rows = Rows(
        tokens_bt=own_bt, lengths_b=np.array([5]), mask_bt=own_bt > 0, segments=Segments(own_bt, prefix_bt, own_bt)
    )
    with pytest.raises(ValueError, match=line):
        rows.placed()


def test_rows_beyond_32_bit_offsets_are_refused():
    q, lengths = jax.ShapeDtypeStruct((2, 1 << 18, 32, 128), "bfloat16"), jax.ShapeDtypeStruct((2,), "int32")
    with pytest.raises(ValueError, match=r"takes 2 rows of at most 262,143 tokens at once, not of 262,144: lower grpo"):
        jax.eval_shape(lambda q, n: causal_attention(q, q, q, n, "triton"), q, lengths)
