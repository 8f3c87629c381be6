"""A kernel of attention is tried before it is used: a run falls back, one that asked for it by name is refused."""

import json

import jax
import jax.numpy as jnp
import pytest
from toys import decode_by_length

from socialr1_jax.models import attention_trial
from socialr1_jax.models.attention import decode_attention
from socialr1_jax.models.attention_trial import (
    decode_trial,
    prefill_attention,
    working_attention,
    working_decode_kernel,
)
from socialr1_jax.models.blockwise import blockwise_attention
from socialr1_jax.models.shapes import SHAPES


@pytest.fixture(autouse=True)
def kept(tmp_path):
    """The file of earlier choices; each test has its own."""
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / "kernels.json"
    jax.config.update("jax_compilation_cache_dir", folder)


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Make attention on GPUs functions of ours: set_kernel("cudnn" or "triton", function of q, k, v and segments)."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention_trial, "_ROW", 48)

    def set_kernel(kernel, compute):
        name = {"cudnn": "causal_attention", "triton": "segment_attention"}[kernel]
        monkeypatch.setattr(attention_trial, name, lambda q, k, v, *others: compute(q, k, v, others[-1]))

    forget = [attention_trial._attention_choice.cache_clear, attention_trial.attention_trial.cache_clear]
    for clear in forget:
        clear()
    yield set_kernel
    for clear in forget:
        clear()


def no_plan(q, k, v, segments):
    raise RuntimeError("no execution plan\nand more")


@pytest.mark.parametrize("kernel", ["cudnn", "triton"])
@pytest.mark.parametrize(
    ("compute", "fault"),
    [
        (blockwise_attention, ""),
        (no_plan, "rows: no execution plan"),
        (lambda q, k, v, segments: blockwise_attention(q, k, v, None), "packed texts: results are "),
        (lambda q, k, v, segments: blockwise_attention(q, k, v, segments) * jnp.nan, "rows: results are wrong by nan"),
        (lambda q, k, v, segments: jax.lax.stop_gradient(blockwise_attention(q, k, v, segments)), "rows: dq are "),
    ],
)
def test_a_kernel_is_taken_if_results_are_right(on_a_gpu, caplog, kernel, compute, fault):
    on_a_gpu("cudnn", no_plan)
    on_a_gpu("triton", no_plan)
    on_a_gpu(kernel, compute)
    found, seconds = attention_trial.attention_trial(kernel, "bfloat16")
    assert found.startswith(fault)
    assert bool(found) == bool(fault) == (seconds == 0)
    assert working_attention("auto", "bfloat16") == ("xla" if fault else kernel)
    assert caplog.text.count("does not compute here: rows: no execution plan") >= 1
    assert working_attention("xla", "bfloat16") == prefill_attention("xla", "bfloat16") == "xla"
    assert prefill_attention("triton", "bfloat16") == ("cudnn" if (kernel, fault) == ("cudnn", "") else "xla")
    if fault:
        with pytest.raises(ValueError, match=rf"attention {kernel} does not compute here: .*; set auto"):
            working_attention(kernel, "bfloat16")
    else:
        assert working_attention(kernel, "bfloat16") == kernel


@pytest.mark.parametrize(("cudnn", "triton", "taken"), [(2e-3, 1e-3, "triton"), (1e-3, 2e-3, "cudnn")])
def test_the_faster_right_kernel_attends(on_a_gpu, monkeypatch, caplog, kept, cudnn, triton, taken):
    caplog.set_level("INFO")
    times = {"cudnn": cudnn, "triton": triton}
    monkeypatch.setattr(attention_trial, "attention_trial", lambda kernel, dtype: ("", times[kernel]))
    for _ in range(2):
        assert working_attention("auto", "bfloat16") == taken
    line = f"attention {taken} (a packed row of 48 tokens, forward and backward: cudnn {1e3 * cudnn:.1f} ms, triton"
    assert [message.startswith(line) for message in caplog.messages] == [True]
    times["cudnn"], times["triton"] = triton, cudnn
    for content, chosen in ((None, taken), ("[1]", None), ('{"attention', None), (kept.read_text()[:-3] + '2"}', None)):
        if content:
            kept.write_text(content)
        attention_trial._attention_choice.cache_clear()
        assert (working_attention("auto", "bfloat16") == taken) == (chosen == taken)
    assert f"attention bfloat16: {taken}, as in an earlier run on this machine ({kept})" in caplog.messages


def test_elsewhere_nothing_is_tried():
    assert working_attention("auto", "bfloat16") == working_attention("auto", "float32") == "xla"
    for kernel in ("cudnn", "triton"):
        with pytest.raises(ValueError, match=f"attention {kernel} computes bfloat16 on NVIDIA GPUs, not"):
            working_attention(kernel, "bfloat16")
    assert working_decode_kernel("auto", SHAPES["8b"], "bfloat16") == "xla"
    with pytest.raises(ValueError, match=r"sampling.attention triton computes bfloat16 on NVIDIA GPUs, not"):
        working_decode_kernel("triton", SHAPES["8b"], "bfloat16")


def without_the_last_slot(q, cache, lengths, prefixes, sharing):
    return decode_attention(q, cache, lengths - 1, prefixes, sharing)


def no_kernel(*args):
    raise NotImplementedError("no Triton\nand more")


@pytest.mark.parametrize(
    ("compute", "fault"),
    [(None, ""), (without_the_last_slot, "a row is wrong by "), (no_kernel, "no Triton")],
)
def test_decode_kernel_is_compared_with_xla(monkeypatch, compute, fault):
    monkeypatch.setattr(attention_trial, "_LAYERS", 1)
    decode_by_length(monkeypatch.setattr)
    if compute is not None:
        monkeypatch.setattr(attention_trial, "attention_by_length", compute)
    found, seconds = decode_trial((4, 2, 8), "bfloat16")
    assert found.startswith(fault)
    assert bool(found) == bool(fault)
    assert fault == "no Triton" or min(seconds["xla"], seconds["triton"]) > 0


@pytest.mark.parametrize(
    ("fault", "triton", "taken", "line"),
    [
        ("", 1e-4, "triton", "decode attention triton (a layer, half-filled caches: xla 200 µs, triton 100 µs)"),
        ("", 3e-4, "xla", "decode attention xla (a layer, half-filled caches: xla 200 µs, triton 300 µs)"),
        ("no Triton", 0, "xla", "decode attention xla: Triton, which reads less, does not compute here: no Triton"),
    ],
)
def test_the_faster_right_kernel_decodes(monkeypatch, caplog, kept, fault, triton, taken, line):
    caplog.set_level("INFO")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention_trial, "decode_trial", lambda *_: (fault, {"xla": 2e-4, "triton": triton}))
    attention_trial._decode_choice.cache_clear()
    shape = SHAPES["8b"]
    try:
        for _ in range(2):
            assert working_decode_kernel("auto", shape, "bfloat16") == taken
        assert caplog.messages == [line]
        assert working_decode_kernel("xla", shape, "bfloat16") == "xla"
        if fault:
            with pytest.raises(ValueError, match=r"triton does not compute here: no Triton; set auto"):
                working_decode_kernel("triton", shape, "bfloat16")
        else:
            assert working_decode_kernel("triton", shape, "bfloat16") == "triton"
        assert [taken] * (not fault) == (list(json.loads(kept.read_text()).values()) if kept.exists() else [])
        if not fault:  # a kernel that cannot decode
            kept.write_text(kept.read_text().replace(f'"{taken}"', '"cudnn"'))
            attention_trial._decode_choice.cache_clear()
            assert working_decode_kernel("auto", shape, "bfloat16") == taken
    finally:
        attention_trial._decode_choice.cache_clear()
