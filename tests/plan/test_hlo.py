"""The reader of compiled programs: collectives, loops, kernels and what overlaps, on texts written by hand."""

import pytest

from socialr1_jax.plan.hlo import attention_kernels, first_group
from socialr1_jax.plan.kernels import Kernel
from socialr1_jax.plan.schedule import read_schedule
from socialr1_jax.runtime.chips import CHIPS, RATES

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
  %q = bf16[1,8,2,4]{3,2,1,0} constant(0)
  %fmha = bf16[1,8,2,4]{3,2,1,0} custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax"
  %loop = (s32[], bf16[16]{0}) while(%x), condition=%more, body=%layer, backend_config={"known_trip_count":{"n":"36"}}
  %open = (s32[], bf16[16]{0}) while(%loop), condition=%more, body=%token
  ROOT %y = f32[8]{0} copy(%x)
}
"""


A100 = CHIPS["a100-80gb"]
RATE = RATES["ampere"]


def collectives(text):
    return read_schedule(text, 8, A100).collectives


def test_collectives_are_counted_with_their_loops():
    found = {one.kind: one for one in collectives(TEXT)}
    gather, scatter, reduce = found["all-gather"], found["reduce-scatter"], found["all-reduce"]
    assert (gather.times, gather.result_bytes, gather.group, gather.asynchronous) == (36, 32, 8, True)
    assert gather.sent == 36 * 32 * 7 / 8
    assert (scatter.times, scatter.result_bytes, scatter.asynchronous) == (36, 8, True)
    assert scatter.sent == 36 * 8 * 7
    assert (reduce.times, reduce.group, reduce.in_open_loop, reduce.asynchronous) == (1, 2, True, False)
    assert reduce.sent == pytest.approx(16)  # 2 (n - 1) / n of 16 bytes
    assert not gather.in_open_loop
    assert len(collectives(TEXT)) == 3  # the one of single devices is none


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
    gather = next(one for one in collectives(text) if one.kind == "all-gather")
    assert (gather.times, gather.in_open_loop) == (36, False)


def test_fused_attention_is_found_by_name():
    assert attention_kernels(TEXT) == ["__cudnn$fmhaSoftmax"]
    assert attention_kernels('custom-call(dot), custom_call_target="__gpu$xla.gpu.triton"') == ["__gpu$xla.gpu.triton"]
    assert attention_kernels("custom-call(dot)") == []


# (attributes, first group of eight devices)
GROUPS = [
    ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", [0, 1]),
    ("replica_groups={}", [*range(8)]),
    ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", [0, 4]),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", [0, 1, 2, 3]),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", [0, 4]),
    ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}", [0, 1, 4, 5]),
    ("replica_groups=mesh['a'=8] {'a':(1)2}", [0, 4]),
    ("replica_groups=mesh['a'=8] {'a':(2)4}", [0, 1, 2, 3]),
    ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", [0, 2, 4, 6]),
    ("replica_groups=mesh['a'=2,'b'=4], device_ids=(7,6,5,4,3,2,1,0) {'a'}", [7, 3]),
    ("source_target_pairs={{0,1},{1,2}}", [0, 1]),
]


@pytest.mark.parametrize(("attributes", "group"), GROUPS)
def test_devices_of_a_group_are_read(attributes, group):
    assert first_group(f"%x), channel_id=1, {attributes}, dimensions={{0}}", 8) == group


def overlapped(between, before="", start="all-gather-start(%w), replica_groups=[1,8]<=[8]"):
    """A gather of 64 MiB with instructions before it and between its start and its end."""
    return f"""
ENTRY %main (x: bf16[4096,4096], w: bf16[512,8192]) -> bf16[4096,8192] {{
  %x = bf16[4096,4096]{{1,0}} parameter(0)
  %w = bf16[512,8192]{{1,0}} parameter(1)
  {before}
  %start = (bf16[512,8192]{{1,0}}, bf16[4096,8192]{{1,0}}) {start}, dimensions={{0}}
  {between}
  ROOT %done = bf16[4096,8192]{{1,0}} all-gather-done(%start)
}}
"""


DOT = "%{0} = bf16[4096,4096]{{1,0}} dot(%x, %x), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}"
PRODUCT = Kernel("matmul", 2 * 4096**3, 3 * 2 * 4096**2).seconds(A100)
GATHER = 64 * 2**20 * 7 / 8 / (RATE.links * A100.link) + RATE.latency
END = "%last = bf16[4096,8192]{1,0} all-gather-done(%more)"
SECOND = "%more = (bf16[512,8192]{1,0}, bf16[4096,8192]{1,0}) all-gather-start(%w), replica_groups=[1,8]<=[8]"


@pytest.mark.parametrize(
    ("text", "exposed"),
    [
        (overlapped(""), GATHER),
        (overlapped("", before=DOT.format("a")), GATHER),
        (overlapped(DOT.format("a")), 0.0),
        (overlapped(f"{SECOND}\n  {END}"), 2 * GATHER),  # of both: one link
        (overlapped(f"{SECOND}\n  {DOT.format('a')}\n  {END}"), max(0.0, 2 * GATHER - PRODUCT)),
        (overlapped(DOT.format("a"), start='all-gather-start(%w), replica_groups={}, c={"is_sync":true}'), GATHER),
    ],
)
def test_what_no_kernel_hides_is_exposed(text, exposed):
    assert GATHER < PRODUCT < 2 * GATHER
    schedule = read_schedule(text, 8, A100)
    assert sum(one.exposed for one in schedule.collectives) == pytest.approx(exposed)
    assert sum(one.seconds for one in schedule.collectives) == pytest.approx(GATHER * (1 + ("%more" in text)))


@pytest.mark.parametrize(("groups", "rate"), [("[2,4]<=[8]", A100.link), ("[4,2]<=[2,4]T(1,0)", A100.network)])
def test_a_group_over_nodes_uses_their_network(groups, rate):
    """Two nodes of four: the first kind of group is within a node, the second has one device of each."""
    text = overlapped("", start=f"all-gather-start(%w), replica_groups={groups}")
    [gather] = read_schedule(text, 8, A100, node=4).collectives
    assert gather.link == rate
    assert gather.seconds == pytest.approx(gather.sent / (RATE.links * rate) + RATE.latency)
    whole = overlapped("", start="all-gather-start(%w), replica_groups={}")
    [gather] = read_schedule(whole, 8, A100, node=4).collectives
    assert gather.seconds == pytest.approx(gather.sent / (RATE.links * 4 * A100.network) + RATE.latency)


KERNELS = """
%fused (p: f32[36,512,64], i: s32[], q: f32[512,64]) -> f32[36,512,64] {
  %p = f32[36,512,64]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %q = f32[512,64]{1,0} parameter(2)
  %slice = f32[1,512,64]{2,1,0} dynamic-slice(%p, %i, %i, %i), dynamic_slice_sizes={1,512,64}
  %view = f32[512,64]{1,0} bitcast(%slice)
  %sum = f32[512,64]{1,0} add(%view, %q)
  %new = f32[1,512,64]{2,1,0} bitcast(%sum)
  ROOT %update = f32[36,512,64]{2,1,0} dynamic-update-slice(%p, %new, %i, %i, %i)
}

%product (l: bf16[128,512], r: bf16[512,64]) -> bf16[128,64] {
  %l = bf16[128,512]{1,0} parameter(0)
  %r = bf16[512,64]{1,0} parameter(1)
  ROOT %dot = bf16[128,64]{1,0} dot(%l, %r), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (p: f32[36,512,64], i: s32[], q: f32[512,64]) -> f32[36,512,64] {
  %p.1 = f32[36,512,64]{2,1,0} parameter(0)
  %i.1 = s32[] parameter(1)
  %q.1 = f32[512,64]{1,0} parameter(2)
  %f = f32[36,512,64]{2,1,0} fusion(%p.1, %i.1, %q.1), kind=kLoop, calls=%fused
  %a = bf16[128,512]{1,0} constant(0)
  %b = bf16[512,64]{1,0} constant(0)
  %g = bf16[128,64]{1,0} fusion(%a, %b), kind=kCustom, calls=%product
  %q4 = bf16[1,256,8,64]{3,2,1,0} constant(0)
  %k4 = bf16[1,256,2,64]{3,2,1,0} constant(0)
  %at = bf16[1,256,8,64]{3,2,1,0} custom-call(%q4, %k4, %k4), custom_call_target="__cudnn$fmhaSoftmax", c="CAUSAL"
  %n = s32[1]{0} constant(0)
  %r = s32[1,4,256]{2,1,0} constant(0)
  %own = bf16[1,256,8,64]{3,2,1,0} custom-call(%n, %r, %q4, %k4, %k4), backend_config={name = "segment_attend"}
  %dq = bf16[1,256,8,64]{3,2,1,0} custom-call(%n, %r, %q4, %k4), backend_config={name = "segment_of_queries"}
  %dk = bf16[1,256,2,64]{3,2,1,0} custom-call(%n, %r, %q4, %k4), backend_config={name = "segment_of_keys"}
  ROOT %t = f32[36,512,64]{2,1,0} copy(%f)
}
"""


def test_kernels_are_counted_by_kind():
    """A sum into a part of a stacked array reads and writes the part alone."""
    kernels = {kernel.kind: kernel for kernel in read_schedule(KERNELS, 8, A100, live=0.2).kernels}
    part, stacked = 4 * 512 * 64, 4 * 36 * 512 * 64
    assert (kernels["matmul"].flops, kernels["matmul"].count) == (2 * 128 * 512 * 64, 1)
    assert kernels["matmul"].bytes == 2 * (128 * 512 + 512 * 64 + 128 * 64)
    assert kernels["attention"].flops == 4 * 8 * 64 * 256 * 256 / 2
    assert kernels["segment_attention"].flops == 2 * kernels["attention"].flops * 0.2
    assert kernels["segment_attention_backward"].flops == pytest.approx(7 * kernels["attention"].flops * 0.2)
    assert kernels["memory"].bytes == 3 * part + 4 + 2 * stacked  # the sum, its index, the copy
    assert kernels["memory"].count == 2
