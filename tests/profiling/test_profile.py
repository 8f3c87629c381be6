"""profile_run.py: what it writes, that its figures add up, and the parts that make them, on hand-made input."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib._hlo
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from socialr1_jax.benchmark.peaks import Peaks
from socialr1_jax.config.profile import _split
from socialr1_jax.grpo.packing import Rows
from socialr1_jax.models.arithmetic import Arithmetic, Cost
from socialr1_jax.models.shapes import named_shape
from socialr1_jax.profiling import run
from socialr1_jax.profiling.page import conclusion, say_summary
from socialr1_jax.profiling.programs import BLOCKS, UNNAMED, Program, block_of, kind_of, read_instructions
from socialr1_jax.profiling.summary import IDLE, summarise
from socialr1_jax.profiling.trace import Op, Span, Trace, own_pieces, read_trace, wall_shares
from socialr1_jax.profiling.watch import watching

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("cold_start=0", "sampling.max_new_tokens=24", "grpo.micro_batch_tokens=2048")
SMOKE = ["--config", str(ROOT / "configs" / "smoke.yaml"), "quiet=true", *SHORT]
PHASES = ["rollout", "reward", "old", "reference", "update"]


def scopes_of_the_source() -> set[str]:
    return {
        name
        for file in (ROOT / "socialr1_jax").rglob("*.py")
        for name in re.findall(r'jax\.named_scope\("([^"]+)"\)', file.read_text(encoding="utf-8"))
    }


@pytest.fixture(autouse=True)
def cache_of_programs():
    """A profile in this process turns it off, and JAX asks only once."""
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


def script():
    if str(ROOT / "scripts") not in sys.path:
        sys.path.insert(0, str(ROOT / "scripts"))
    return importlib.import_module("profile_run")


def refused(capsys, *arguments: str) -> str:
    """Standard error of the script when it ends with status 2."""
    try:
        status = script().main([*SMOKE, *arguments])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """The folder and the summary of a profile. Its process has no programs from the cache: their ids would repeat."""
    folder = tmp_path_factory.mktemp("profile") / "out"
    program = "import sys; sys.modules['torch'] = None; "  # which transformers would import
    program += "sys.path.insert(0, 'scripts'); from socialr1_jax.benchmark import peaks; "
    program += "peaks._SECONDS = 0.1; import profile_run; sys.exit(profile_run.main())"
    command = [sys.executable, "-c", program, *SMOKE, "--steps", "2", "--strict", f"output_dir={folder}"]
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # with the fusions that users get
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "profile.json").read_text())


def test_everything_is_written(profiled):
    folder, summary = profiled
    for name in ("profile.html", "memory.pprof"):
        assert (folder / name).stat().st_size > 1000
    for pattern in ("*.xplane.pb", "*.trace.json.gz"):
        assert len(list((folder / "trace").rglob(pattern))) == 1
    functions = {program["name"] for program in summary["programs"]}
    assert {"jit_admit", "jit_decode_segment", "jit__accumulate", "jit__apply"} <= functions
    for program in summary["programs"]:
        assert (folder / program["file"]).read_text().startswith(f"HloModule {program['name']}")
        assert program["memory"]["argument"] + program["memory"]["output"] > 0
    update = next(program for program in summary["programs"] if program["name"] == "jit__accumulate")
    assert update["memory"]["temp"] > 0
    assert update["cost"]["flops"] > 1e6


def test_the_page_needs_nothing_else(profiled):
    page = (profiled[0] / "profile.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|<img|src=|url\(|@import|https?://", page)
    assert all(f"<th>{name}</th>" in page for name in (*PHASES, "attend", "mlp"))


def test_comparison_with_a_compiling_step_is_refused(profiled, capsys):
    summary = profiled[1]
    assert summary["compiled_in_untraced"] == 0
    for compiled, words in ((0, "untraced 2 s\n"), (1, "untraced 2 s with 1 program compiled in it: do not compare")):
        say_summary(summary | {"compiled_in_untraced": compiled, "untraced_seconds": 2.0})
        assert words in capsys.readouterr().out


def test_the_page_holds_every_row(profiled):
    folder, summary = profiled
    page = (folder / "profile.html").read_text(encoding="utf-8")
    rows = [re.sub(r"<[^>]+>", "\n", row).split() for row in re.findall(r"<tr><th>.*?</tr>", page)]
    assert len(summary["ops"]) > 100
    for op in summary["ops"]:
        assert any(row[0] == op["op"] and row[-1] == op["program"] for row in rows), op["op"]
    named = [name for phase in summary["phases"].values() for name in phase["blocks"]]
    named += [*summary["phases"], *summary["blocks"], *(program["file"] for program in summary["programs"])]
    assert Counter(named) <= Counter(row[0] for row in rows)


def test_phases_add_up_to_the_step(profiled):
    step, phases = profiled[1]["step"], profiled[1]["phases"]
    assert list(phases) == PHASES
    assert len(step["each"]) == 2
    total = sum(phase["seconds"] for phase in phases.values())
    assert abs(total - step["seconds"]) <= 0.05 * step["seconds"]
    assert step["seconds"] == pytest.approx(np.mean(step["each"]))
    assert all(phases[name]["seconds"] > 1e-3 for name in PHASES)  # smoke.yaml has two updates and a reference


def test_blocks_are_those_of_the_source(profiled):
    phases = profiled[1]["phases"]
    assert set(profiled[1]["blocks"]) <= scopes_of_the_source() | {UNNAMED}
    assert {"attend", "attention", "mlp", "lm_head", "draw", "cache_write", "insert"} <= set(
        phases["rollout"]["blocks"]
    )
    assert {"attend", "mlp", "logprobs", "optimizer", "gradient_sum"} <= set(phases["update"]["blocks"])
    assert "optimizer" not in phases["rollout"]["blocks"]
    assert "draw" not in phases["update"]["blocks"]
    assert profiled[1]["ops_of_unknown_programs"] == 0


def test_no_time_counts_twice(profiled):
    folder, summary = profiled
    for phase in summary["phases"].values():
        assert phase["busy_seconds"] + phase["idle_seconds"] == pytest.approx(phase["seconds"])
        assert 0 <= phase["idle_seconds"] <= phase["seconds"]
        for parts in (phase["kinds"].values(), [block["seconds"] for block in phase["blocks"].values()]):
            assert sum(parts) == pytest.approx(phase["busy_seconds"])
    trace = read_trace(folder / "trace")
    everything = union((op.start, op.stop) for line in trace.lines for op in line)
    steps = [(span.start, span.stop) for span in trace.spans("step")]
    assert everything <= (max(stop for _, stop in steps) - min(start for start, _ in steps)) * (1 + 1e-6)
    for line in trace.lines:
        own = sum(stop - start for _, start, stop in own_pieces(line))
        assert own == pytest.approx(union((op.start, op.stop) for op in line))
    # Loops hold their bodies' ops, so there was something to count twice.
    ordered = [sorted(line, key=lambda op: (op.start, -op.stop)) for line in trace.lines]
    assert any(inner.stop < outer.stop for line in ordered for outer, inner in pairwise(line))


def test_no_phase_is_faster_than_its_bound(profiled):
    phases = profiled[1]["phases"]
    for name in ("rollout", "reference", "update"):
        phase = phases[name]
        assert 0 < phase["roofline_share"] < 1
        needed = sum(phase["blocks"][block]["bound_seconds"] for block in ("attend", "attention", "mlp", "lm_head"))
        assert 0.5 * phase["bound_seconds"] < needed < 2 * phase["bound_seconds"]
        assert phase["blocks"]["rope"]["bound_seconds"] == 0  # the shapes set none
    assert phases["update"]["needed_flops"] == pytest.approx(3 * phases["reference"]["needed_flops"])


def test_puts_are_counted_by_phase(profiled):
    phases = profiled[1]["phases"]
    assert phases["reference"]["puts"] >= 1  # the micro-batches are placed
    assert phases["reward"]["puts"] == 0


def test_strict_refuses_an_implicit_transfer(one_layer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Rows, "placed", lambda self: self)  # NumPy into the update
    monkeypatch.setattr(run, "measure_peaks", lambda dtype: Peaks(1.0, 1.0))
    folder = tmp_path / "out"
    assert script().main([*SMOKE, "--phase", "update", "--strict", f"output_dir={folder}"]) == 1
    error = capsys.readouterr().err
    assert "strict: implicit transfer of an array in the update" in error
    assert "host-to-device" in error
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--phase", "sideways"], "phase must be one of"),
        (["--phase", "rollout", "--strict"], "strict checks the update"),
        (["sampling.grop_size=4"], "did you mean 'sampling.group_size'"),
        (["replay_rollouts=kept.jsonl"], "no rollout to profile"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, tmp_path, capsys):
    assert message in refused(capsys, *arguments, f"output_dir={tmp_path / 'out'}")


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("mine")
    assert "profile.json" in refused(capsys, f"output_dir={tmp_path}")
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]


def test_a_file_that_is_no_folder_is_told(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    error = refused(capsys, f"output_dir={tmp_path / 'file'}")
    assert error.splitlines()[-1].startswith("profile_run.py: error:")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("text", ["5", "[{model: 1}]", "a: [", ""])
def test_a_file_that_is_no_configuration_is_told(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SystemExit) as ended:
        script().main(["--config", str(tmp_path / "c.yaml"), f"output_dir={tmp_path / 'out'}"])
    assert ended.value.code == 2


@pytest.mark.parametrize("spelling", ["--output-dir", "--output_dir"])
def test_own_options_are_known_in_both_spellings(spelling):
    own, others = _split(["--config", "c.yaml", spelling, "there", "--phase=update", "steps=4", "seed=1"])
    assert own == [spelling, "there", "--phase=update", "steps=4"]
    assert others == ["--config", "c.yaml", "seed=1"]


# ---------------------------------------------------------------------------------------------------------- the parts


def test_every_named_scope_is_a_block():
    assert scopes_of_the_source() == BLOCKS


def union(intervals):
    """The length of what the intervals cover together; where they overlap it counts once."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def ops(*times):
    return [Op(("m", 1), f"op{i}", *time) for i, time in enumerate(times)]


def test_op_does_not_hold_time_of_inner_ones():
    #  0         10  loop
    #   1   5       body
    #    2 3        inside the body
    #         6  9  body again
    #               12 13 another
    pieces = own_pieces(ops((0, 10), (1, 5), (2, 3), (6, 9), (12, 13)))
    own = [sum(stop - start for op, start, stop in pieces if op == i) for i in range(5)]
    assert own == [3, 3, 1, 3, 1]
    assert sum(own) == union([(0, 10), (12, 13)])


@pytest.mark.parametrize(
    ("pieces", "shares"),
    [
        ([(0, 10), (5, 15), (20, 21)], [7.5, 7.5, 1]),
        ([(0, 4), (2, 6)], [3, 3]),
        ([(0, 10), (8, 10)], [9, 1]),
        ([(-5, 3), (24, 40), (30, 40)], [3, 1, 0]),  # between 0 and 25 alone
        ([], []),
    ],
)
def test_instant_is_divided_among_running_ops(pieces, shares):
    assert wall_shares(np.array(pieces, float).reshape(-1, 2), 0, 25).tolist() == shares


@pytest.mark.parametrize("seed", range(3))
def test_wall_shares_add_up_to_the_union(seed):
    starts = np.random.default_rng(seed).uniform(0, 100, (50, 1))
    pieces = np.concatenate([starts, starts + 7], axis=1)
    assert wall_shares(pieces, 0, 200).sum() == pytest.approx(union(map(tuple, pieces)))


@pytest.mark.parametrize(
    ("op_name", "block"),
    [
        ("jit(decode_segment)/while/body/lm_head/bti,koi->kbto/dot_general", "lm_head"),
        ("jit(_accumulate)/transpose(jvp(logprobs))/while/body/cv,vd->cd/dot_general", "logprobs"),
        ("jit(f)/transpose(jvp())/while/body/closed_call/checkpoint/attention/rope/mul", "rope"),
        ("jit(f)/jvp(attention)/attend/jit(_where)/select_n", "attend"),
        ("jit(attention)/while/body/add", ""),  # the name of a function, not of a block
        ("jit(f)/attention_like/add", ""),
        ("", ""),
    ],
)
def test_block_of_an_op_name(op_name, block):
    assert block_of(op_name) == block


def test_kind_of_an_instruction():
    assert kind_of({"kAllReduceStart"}, "mlp", "") == "collective"
    assert kind_of({"kAsyncStart", "kReduceScatter"}, "attend", "") == "collective"
    assert kind_of({"kDot"}, "attend", "") == "attention"
    assert kind_of({"kCustomCall"}, "attention", 'custom_call_target="__cudnn$fmhaSoftmax"') == "attention"
    assert kind_of({"kFusion", "kDot"}, "attention", "") == "matmul"
    assert kind_of({"kCustomCall"}, "lm_head", 'custom_call_target="__cublas$lt$matmul"') == "matmul"
    assert kind_of({"kFusion", "kAfterAll"}, "attention", "") == "other"


HLO = """\
HloModule jit_f, is_scheduled=true

%fused (p0: f32[8,4], p1: f32[4,2]) -> f32[8,2] {
  %p0 = f32[8,4]{1,0} parameter(0)
  %p1 = f32[4,2]{1,0} parameter(1)
  ROOT %d = f32[8,2]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(f)/while/body/mlp/dot_general"}
}

%turned (q0: f32[8,2]) -> f32[8,2] {
  %q0 = f32[8,2]{1,0} parameter(0)
  %q1 = f32[8,2]{1,0} negate(%q0), metadata={op_name="jit(f)/rope/neg"}
  %q2 = f32[8,2]{1,0} sine(%q1), metadata={op_name="jit(f)/rope/sin"}
  ROOT %q3 = f32[8,2]{1,0} add(%q1, %q2), metadata={op_name="jit(f)/embed/add"}
}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%scattered (s0: f32[8,4]) -> f32[4,4] {
  %s0 = f32[8,4]{1,0} parameter(0)
  ROOT %scatter = f32[4,4]{1,0} reduce-scatter(%s0), replica_groups={{0,1}}, dimensions={0}, to_apply=%add
}

%body (b: (s32[], f32[8,2])) -> (s32[], f32[8,2]) {
  ROOT %b = (s32[], f32[8,2]{1,0}) parameter(0)
}

%more (m: (s32[], f32[8,2])) -> pred[] {
  %m = (s32[], f32[8,2]{1,0}) parameter(0)
  ROOT %no = pred[] constant(false)
}

ENTRY %main (a: f32[8,4], c: f32[4,2], i: s32[]) -> (f32[8,2], s8[1024]) {
  %a = f32[8,4]{1,0} parameter(0)
  %c = f32[4,2]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %product = f32[8,2]{1,0} fusion(%a, %c), kind=kCustom, calls=%fused
  %update = f32[8,2]{1,0} fusion(%product), kind=kLoop, calls=%turned, metadata={op_name="jit(f)/cache_write/scatter"}
  %most = f32[8,2]{1,0} fusion(%update), kind=kLoop, calls=%turned, metadata={op_name="jit(f)/add"}
  %begun = ((f32[8,4]{1,0}), f32[4,4]{1,0}) async-start(%a), calls=%scattered
  %done = f32[4,4]{1,0} async-done(%begun)
  %nameless = f32[8,2]{1,0} negate(%product)
  %before = f32[8,4]{1,0} copy(%a)
  %used = f32[8,4]{1,0} exponential(%before), metadata={op_name="jit(f)/draw/exp"}
  %start = (s32[], f32[8,2]{1,0}) tuple(%i, %nameless)
  %loop = (s32[], f32[8,2]{1,0}) while(%start), condition=%more, body=%body, metadata={op_name="jit(f)/while"}
  ROOT %gemm = (f32[8,2]{1,0}, s8[1024]{0}) custom-call(%a, %c), custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(f)/lm_head/dot"}
}
"""  # noqa: E501


def test_instructions_of_a_program():
    found = read_instructions(jaxlib._hlo.hlo_module_from_text(HLO))
    kinds = {name: (found[name].block, found[name].kind) for name in found}
    assert kinds["product"] == ("mlp", "matmul")  # by what is inside
    assert kinds["update"] == ("cache_write", "other")  # its own name comes first
    assert kinds["most"] == ("rope", "other")  # two in three of those inside
    assert kinds["begun"] == kinds["done"] == (UNNAMED, "collective")
    assert kinds["nameless"] == ("mlp", "other")  # by what it computes with
    assert kinds["before"] == ("draw", "other")  # by what uses it
    assert kinds["loop"] == (UNNAMED, "other")  # its name has no block
    assert kinds["gemm"] == ("lm_head", "matmul")
    assert (found["update"].op_name, found["product"].op_name) == ("jit(f)/cache_write/scatter", "")


def test_figures_of_a_hand_made_trace():
    second = 1e9
    line = [Op(("jit_f", 7), "loop", 1 * second, 5 * second), Op(("jit_f", 7), "product", 2 * second, 4 * second)]
    other = [Op(("jit_f", 7), "nameless", 3 * second, 4 * second), Op(("gone", 1), "x", 8 * second, 9 * second)]
    host = [Span("step", 0, 10 * second), Span("update", 0, 10 * second), Span("update", 20 * second, 30 * second)]
    instructions = read_instructions(jaxlib._hlo.hlo_module_from_text(HLO))
    programs = {("jit_f", 7): Program("jit_f", 7, HLO, instructions, {}, {})}
    host += [Span("DevicePutWithSharding", time * second, time * second + 5) for time in (1, 2, 11, 21)]
    costs = {"update": [{"mlp": Cost(128, 0), "rope": Cost(512, 0)}], "rollout": [{"mlp": Cost(512, 0)}]}
    figures = summarise(Trace([line, other], host), programs, Peaks(256, 1e9), "step", ["update"], costs)
    update = figures["phases"]["update"]
    assert update["puts"] == 2
    assert figures["step"]["seconds"] == update["seconds"] == 10  # the second update is in no step
    assert (update["busy_seconds"], update["idle_seconds"]) == (5, 5)
    assert update["kinds"] == {"matmul": 1.5, "attention": 0, "collective": 0, "other": 3.5}
    assert update["blocks"] == figures["blocks"]
    assert update["blocks"] == {
        UNNAMED: {"seconds": 3, "bound_seconds": 0},
        "mlp": {"seconds": 2, "bound_seconds": 0.5},
    }
    assert (update["bound_seconds"], update["roofline_share"]) == (2.5, 0.25)
    assert update["gaps"][0] == {"what": IDLE, "seconds": 5, "bound_seconds": 0, "gap_seconds": 5}
    assert figures["ops"][0]["op"] == "loop"
    assert (figures["ops"][0]["seconds"], figures["ops"][0]["runs"]) == (2, 1)
    assert figures["ops_of_unknown_programs"] == 1


@pytest.mark.parametrize("ops", [[], [Op(("gone", 1), "x", 3e9, 5e9)]])
def test_trace_of_unknown_ops_has_figures(ops):
    host = [Span("rollout", 1e9, 3e9), Span("rollout", 4e9, 8e9)]
    figures = summarise(Trace([ops] if ops else [], host), {}, Peaks(1, 1), "rollout", ["rollout"], {})
    assert figures["step"]["each"] == [2, 4]
    assert figures["phases"]["rollout"]["idle_seconds"] == (2.5 if ops else 3)
    assert figures["phases"]["rollout"]["roofline_share"] is None


def test_costs_by_block_sum_to_forward_pass():
    needed = Arithmetic(named_shape("0.6b"), 2, 3)
    blocks = needed.by_block(tokens=70.0, pairs=900.0, predicted=30.0, passes=4)
    assert sum(cost.flops for cost in blocks.values()) == needed.flops(70.0, 900.0, 30.0)
    assert sum(cost.bytes for cost in blocks.values()) == needed.forward(70, 0, 30, passes=4).bytes


def test_compilations_are_noted_with_phase_and_cause():
    doubled = jax.jit(lambda x: x * 2)
    doubled(jnp.ones(3)).block_until_ready()
    with watching() as seen:
        with seen.phase("update"):
            doubled(jnp.ones(5)).block_until_ready()
        with seen.phase("rollout"):
            doubled(jnp.ones(5)).block_until_ready()
    doubled(jnp.ones(7)).block_until_ready()
    (compiled,) = [one for one in seen.compilations if one["function"] == "<lambda>"]
    assert compiled["phase"] == "update"
    assert compiled["seconds"] > 0
    assert "now f32[5] and before f32[3]" in compiled["cause"]


@pytest.mark.parametrize(
    ("kinds", "idle", "share", "sentences"),
    [
        (
            {"matmul": 6.0, "attention": 1.0},
            1.0,
            0.75,
            ("75.0 % of it is matmul", "reaches 75.0 %", "micro_batch_tokens"),
        ),
        ({"matmul": 1.0, "attention": 6.0}, 1.0, 0.5, ("75.0 % of it is attention", "at least 4 s", "shorter prompts")),
        (
            {"matmul": 0.0, "attention": 0.0},
            8.0,
            None,
            ("100.0 % of it is idle", "no bound by arithmetic", "faster judge"),
        ),
    ],
)
def test_conclusion_follows_from_the_longest_phase(kinds, idle, share, sentences):
    phase = {"seconds": 8.0, "kinds": kinds, "idle_seconds": idle, "bound_seconds": 4.0, "roofline_share": share}
    phase["gaps"] = [{"what": "mlp", "gap_seconds": 2.0}]
    short = phase | {"seconds": 1.0}
    found = conclusion({"phases": {"update": phase, "reward": short}, "step": {"seconds": 10.0}})
    assert found[0].startswith("The update takes 8 s, 80.0 % of a step")
    assert len(found) == 3
    assert all(part in sentence for part, sentence in zip(sentences, found, strict=True))
