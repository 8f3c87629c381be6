"""The reader of compiled programs: kinds, bytes, loops and what is asynchronous, on texts written by hand."""

import pytest

from socialr1_jax.plan.hlo import attention_kernels, collectives

TEXT = """
HloModule jit_f, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%async_computation (p: bf16[8,4]) -> bf16[1,4] {
  %p = bf16[8,4]{1,0} parameter(0)
  ROOT %rs = bf16[1,4]{1,0} reduce-scatter(%p), replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%add
}

%layer (c: (s32[], bf16[16])) -> (s32[], bf16[16]) {
  %c = (s32[], bf16[16]{0}) parameter(0)
  %w = bf16[2]{0} get-tuple-element(%c), index=1
  %all-gather-start = (bf16[2]{0}, bf16[16]{0}) all-gather-start(%w), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  %all-gather-done = bf16[16]{0} all-gather-done(%all-gather-start)
  %start = ((bf16[8,4]{1,0}), bf16[1,4]{1,0}) async-start(%w), calls=%async_computation
  %done = bf16[1,4]{1,0} async-done(%start)
  ROOT %t = (s32[], bf16[16]{0}) tuple(%c, %all-gather-done)
}

%more (c: (s32[], bf16[16])) -> pred[] {
  %c = (s32[], bf16[16]{0}) parameter(0)
  ROOT %lt = pred[] constant(true)
}

%token (c: (s32[], bf16[16])) -> (s32[], bf16[16]) {
  %c = (s32[], bf16[16]{0}) parameter(0)
  %ar = f32[4]{0} all-reduce(%c), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  %alone = f32[4]{0} all-reduce(%c), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  ROOT %t = (s32[], bf16[16]{0}) tuple(%c, %ar)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %fmha = bf16[8]{0} custom-call(%x), custom_call_target="__cudnn$fmhaSoftmax"
  %loop = (s32[], bf16[16]{0}) while(%x), condition=%more, body=%layer, backend_config={"known_trip_count":{"n":"36"}}
  %open = (s32[], bf16[16]{0}) while(%loop), condition=%more, body=%token
  ROOT %y = f32[8]{0} copy(%x)
}
"""


def test_collectives_are_counted_with_their_loops():
    found = {one.kind: one for one in collectives(TEXT, 8)}
    gather, scatter, reduce = found["all-gather"], found["reduce-scatter"], found["all-reduce"]
    assert (gather.times, gather.result_bytes, gather.group, gather.asynchronous) == (36, 32, 8, True)
    assert gather.sent == 36 * 32 * 7 / 8
    assert (scatter.times, scatter.result_bytes, scatter.asynchronous) == (36, 8, True)
    assert scatter.sent == 36 * 8 * 7
    assert (reduce.times, reduce.group, reduce.in_open_loop, reduce.asynchronous) == (1, 2, True, False)
    assert reduce.sent == pytest.approx(16)  # 2 (n - 1) / n of 16 bytes
    assert not gather.in_open_loop
    assert len(collectives(TEXT, 8)) == 3  # the one of single devices is none


def test_loop_compared_with_a_constant_ends():
    """As the compiler writes it for TPUs, which says no trip count."""
    condition = """%more (c: (s32[], bf16[16])) -> pred[] {
  %c = (s32[], bf16[16]{0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %limit = s32[] constant(36)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}"""
    start = TEXT.index("%more (c")
    text = TEXT[:start] + condition + TEXT[TEXT.index("\n\n", start) :]
    text = text.replace(', backend_config={"known_trip_count":{"n":"36"}}', "")
    gather = next(one for one in collectives(text, 8) if one.kind == "all-gather")
    assert (gather.times, gather.in_open_loop) == (36, False)


def test_fused_attention_is_found_by_name():
    assert attention_kernels(TEXT) == ["__cudnn$fmhaSoftmax"]
    assert attention_kernels('custom-call(dot), custom_call_target="__gpu$xla.gpu.triton"') == ["__gpu$xla.gpu.triton"]
    assert attention_kernels("custom-call(dot)") == []
