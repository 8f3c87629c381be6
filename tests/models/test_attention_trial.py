"""The kernel of attention is tried before it is used: a run falls back, one that asked for it by name is refused."""

import jax
import jax.numpy as jnp
import pytest

from socialr1_jax.models import attention_trial
from socialr1_jax.models.attention_trial import cudnn_fault, working_attention
from socialr1_jax.models.blockwise import blockwise_attention


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Makes cuDNN's attention a function of ours; returns what sets it."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    cudnn_fault.cache_clear()

    def set_cudnn(compute):
        def attention(q, k, v, lengths, backend, segments):
            return compute(q, k, v, segments)

        monkeypatch.setattr(attention_trial, "causal_attention", attention)

    yield set_cudnn
    cudnn_fault.cache_clear()


def no_plan(q, k, v, segments):
    raise RuntimeError("cuDNN creates no execution plan\nand more")


@pytest.mark.parametrize(
    ("compute", "fault"),
    [
        (blockwise_attention, ""),
        (no_plan, "rows: cuDNN creates no execution plan"),
        (lambda q, k, v, segments: blockwise_attention(q, k, v, None), "packed texts: results are "),
        (lambda q, k, v, segments: blockwise_attention(q, k, v, segments) * jnp.nan, "rows: results are wrong by nan"),
        (lambda q, k, v, segments: jax.lax.stop_gradient(blockwise_attention(q, k, v, segments)), "rows: dq are "),
    ],
)
def test_cudnn_is_taken_if_results_are_right(on_a_gpu, caplog, compute, fault):
    on_a_gpu(compute)
    assert cudnn_fault("bfloat16").startswith(fault)
    assert working_attention("auto", "bfloat16") == ("xla" if fault else "cudnn")
    assert caplog.text.count("cuDNN, which is faster, does not compute here") == bool(fault)
    assert working_attention("xla", "bfloat16") == "xla"
    if fault:
        with pytest.raises(ValueError, match=r"attention cudnn does not compute here: .*; set auto"):
            working_attention("cudnn", "bfloat16")


def test_elsewhere_nothing_is_tried():
    assert working_attention("auto", "bfloat16") == working_attention("auto", "float32") == "xla"
    with pytest.raises(ValueError, match="NVIDIA GPUs"):
        working_attention("cudnn", "bfloat16")
