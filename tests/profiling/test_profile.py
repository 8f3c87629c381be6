"""profile_run.py: what it writes, that its figures add up, and the parts that make them, on hand-made input."""

import html
import importlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from socialr1_jax.models.arithmetic import Arithmetic, Cost
from socialr1_jax.models.shapes import named_shape
from socialr1_jax.profiling.blocks import BLOCKS, block_of, kind_of
from socialr1_jax.profiling.conclusion import conclusion
from socialr1_jax.profiling.instructions import read_instructions
from socialr1_jax.profiling.page import say_summary
from socialr1_jax.profiling.peaks import Peaks
from socialr1_jax.profiling.programs import Program
from socialr1_jax.profiling.steps import Measured, Steps
from socialr1_jax.profiling.summary import IDLE, UNNAMED, summarise
from socialr1_jax.profiling.trace import Op, Span, Trace, own_pieces, read_trace, shared, union
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


def profile(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """The script in a process of its own; `before` runs in front of it."""
    program = f"import sys\nsys.path.insert(0, 'scripts')\n{before}\nimport profile_run\nsys.exit(profile_run.main())"
    command = [sys.executable, "-c", program, *arguments]
    environment = os.environ | {"XLA_FLAGS": ""}  # a profile is of programs as users compile them
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)


def script():
    if str(ROOT / "scripts") not in sys.path:
        sys.path.insert(0, str(ROOT / "scripts"))
    return importlib.import_module("profile_run")


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile") / "out"
    done = profile(*SMOKE, "--steps", "2", "--strict", f"output_dir={folder}")
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
    assert len(summary["conclusion"]) == 3
    assert all(sentence in html.unescape(page) for sentence in summary["conclusion"])


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
        assert phase["thread_seconds"] >= phase["busy_seconds"] * (1 - 1e-9)
        for parts in (phase["kinds"].values(), [block["seconds"] for block in phase["blocks"].values()]):
            assert sum(parts) == pytest.approx(phase["busy_seconds"])
    trace = read_trace(folder / "trace")
    everything = union((op.start, op.stop) for line in trace.lines for op in line)
    steps = [(span.start, span.stop) for span in trace.spans("step")]
    assert everything <= (max(stop for _, stop in steps) - min(start for start, _ in steps)) * (1 + 1e-6)
    for line in trace.lines:
        own = sum(piece.stop - piece.start for piece in own_pieces(line))
        assert own == pytest.approx(union((op.start, op.stop) for op in line))
    # Loops hold their bodies' ops, so there was something to count twice.
    sums = [sum(op.stop - op.start for op in line) for line in trace.lines]
    assert max(s / union((op.start, op.stop) for op in line) for s, line in zip(sums, trace.lines, strict=True)) > 1.1


def test_work_done_is_at_least_work_needed(profiled):
    for name in ("reference", "update"):
        phase = profiled[1]["phases"][name]
        assert phase["needed_flops"] <= phase["flops"] < 8 * phase["needed_flops"]
        assert 0 < phase["roofline_share"] < 1


def test_strict_refuses_an_implicit_transfer(tmp_path):
    inject = "from socialr1_jax.grpo.packing import Rows\nRows.placed = lambda self: self"  # NumPy into the update
    folder = tmp_path / "out"
    done = profile(*SMOKE, "--phase", "update", "--strict", f"output_dir={folder}", before=inject)
    assert done.returncode == 1, done.stderr
    assert "strict: the update moved an array unasked" in done.stderr
    assert "host-to-device" in done.stderr
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--phase", "sideways"], "phase must be one of"),
        (["--phase", "rollout", "--strict"], "strict looks at the update"),
        (["sampling.grop_size=4"], "did you mean 'sampling.group_size'"),
        (["replay_rollouts=kept.jsonl"], "no rollout to profile"),
    ],
)
def test_bad_arguments_are_refused(arguments, told, tmp_path):
    done = profile(*SMOKE, *arguments, f"output_dir={tmp_path / 'out'}")
    assert done.returncode == 2
    assert told in done.stderr


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    done = profile(*SMOKE, f"output_dir={tmp_path}")
    assert done.returncode == 2
    assert "profile.json" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]


def test_a_file_that_is_no_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    done = profile(*SMOKE, f"output_dir={tmp_path / 'file'}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("profile_run.py: error:")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("text", ["5", "[{model: 1}]", "a: [", ""])
def test_a_file_that_is_no_configuration_is_told(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SystemExit) as ended:
        script().main(["--config", str(tmp_path / "c.yaml"), f"output_dir={tmp_path / 'out'}"])
    assert ended.value.code == 2


@pytest.mark.parametrize("spelling", ["--output-dir", "--output_dir"])
def test_own_options_are_known_in_both_spellings(spelling):
    own, others = script()._split(["--config", "c.yaml", spelling, "there", "--phase=update", "steps=4", "seed=1"])
    assert own == [spelling, "there", "--phase=update", "steps=4"]
    assert others == ["--config", "c.yaml", "seed=1"]


def test_what_a_crash_says_is_not_lost():
    """The last words of a process that dies in a phase, as XLA's do, come out."""
    program = (
        "import os\nfrom socialr1_jax.profiling.watch import watching\nwith watching() as seen:\n"
        "    with seen.phase('update'):\n        os.write(2, b'the reason\\n')\n        __import__('time').sleep(1)\n"
        "        os.abort()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode < 0
    assert "the reason" in done.stderr


# ---------------------------------------------------------------------------------------------------------- the parts


def test_every_named_scope_is_a_block():
    assert scopes_of_the_source() == BLOCKS


def test_union_of_intervals():
    assert union([]) == 0
    assert union([(0, 4), (1, 2), (3, 6), (8, 9)]) == 7
    assert union([(8, 9), (0, 4), (4, 5)]) == 6


def ops(*times):
    return [Op(("m", 1), f"op{i}", *time) for i, time in enumerate(times)]


def test_op_does_not_hold_time_of_inner_ones():
    #  0         10  loop
    #   1   5       body
    #    2 3        inside the body
    #         6  9  body again
    #               12 13 another
    pieces = own_pieces(ops((0, 10), (1, 5), (2, 3), (6, 9), (12, 13)))
    own = [sum(piece.stop - piece.start for piece in pieces if piece.op == i) for i in range(5)]
    assert own == [3, 3, 1, 3, 1]
    assert sum(own) == union([(0, 10), (12, 13)])


def test_instant_is_divided_among_running_ops():
    assert shared([(0, 0.0, 10.0), (1, 5.0, 15.0), (0, 20.0, 21.0)]) == {0: 8.5, 1: 7.5}
    assert shared([(0, 0.0, 4.0), (0, 2.0, 6.0)]) == {0: 6.0}


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
    assert kind_of("all-reduce-start", "mlp", "", 0) == "collective"
    assert kind_of("dot", "attend", "", 8) == "attention"
    assert kind_of("custom-call", "attention", "__cudnn$fmhaSoftmax", 0) == "attention"
    assert kind_of("fusion", "attention", "", 8) == "matmul"
    assert kind_of("fusion", "attention", "", 0) == "other"


HLO = """\
HloModule jit_f, is_scheduled=true

%fused (p0: f32[8,4], p1: f32[4,2]) -> f32[8,2] {
  %p0 = f32[8,4]{1,0} parameter(0)
  %p1 = f32[4,2]{1,0} parameter(1)
  ROOT %d = f32[8,2]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, metadata={op_name="jit(f)/while/body/mlp/dot_general"}
}

%put (q0: bf16[100,8], q1: bf16[1,8], q2: s32[]) -> bf16[100,8] {
  %q0 = bf16[100,8]{1,0} parameter(0)
  %q1 = bf16[1,8]{1,0} parameter(1)
  %q2 = s32[] parameter(2)
  ROOT %u = bf16[100,8]{1,0} dynamic-update-slice(%q0, %q1, %q2, %q2)
}

%six (r0: f32[8,4]) -> (f32[8,2], f32[8,2], f32[8,2], f32[8,2], f32[8,2], f32[8,4]) {
  %r0 = f32[8,4]{1,0} parameter(0)
  %half = f32[8,2]{1,0} slice(%r0), slice={[0:8], [0:2]}
  %minus = f32[8,4]{1,0} negate(%r0)
  ROOT %all = (f32[8,2]{1,0}, f32[8,2]{1,0}, f32[8,2]{1,0}, f32[8,2]{1,0}, f32[8,2]{1,0}, /*index=5*/f32[8,4]{1,0}) tuple(%half, %half, %half, %half, %half, /*index=5*/%minus)
}

%scattered (s0: f32[8,4]) -> f32[4,4] {
  %s0 = f32[8,4]{1,0} parameter(0)
  ROOT %scatter = f32[4,4]{1,0} reduce-scatter(%s0), dimensions={0}
}

ENTRY %main (a: f32[8,4], b: f32[4,2], c: bf16[100,8], e: bf16[1,8], i: s32[]) -> f32[8,2] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[4,2]{1,0} parameter(1)
  %c = bf16[100,8]{1,0} parameter(2)
  %e = bf16[1,8]{1,0} parameter(3)
  %i = s32[] parameter(4)
  %product = f32[8,2]{1,0} fusion(%a, %b), kind=kCustom, calls=%fused
  %update = bf16[100,8]{1,0} fusion(%c, %e, %i), kind=kLoop, calls=%put, metadata={op_name="jit(f)/cache_write/scatter"}
  %many = (f32[8,2]{1,0}, f32[8,2]{1,0}, f32[8,2]{1,0}, f32[8,2]{1,0}, f32[8,2]{1,0}, /*index=5*/f32[8,4]{1,0}) fusion(%a), kind=kLoop, calls=%six
  %joined = f32[48,2]{1,0} concatenate(%product, %product, %product, %product, %product, /*index=5*/%product), dimensions={0}
  %begun = ((f32[8,4]{1,0}), f32[4,4]{1,0}, s32[]) async-start(%a), calls=%scattered
  %nameless = f32[8,2]{1,0} negate(%product)
  %loop = (s32[], f32[8,2]{1,0}) while(%nameless), condition=%x, body=%y, metadata={op_name="jit(f)/while"}
  ROOT %gemm = (f32[8,2]{1,0}, s8[33554432]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(f)/lm_head/dot"}, backend_config={"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}
}
"""  # noqa: E501


def test_instructions_of_a_program():
    found = read_instructions(HLO)
    product = found["product"]
    assert (product.block, product.kind, product.flops, product.bytes) == ("mlp", "matmul", 128, 4 * (32 + 8 + 16))
    # In place: the slice is read and written, the index read, and the hundred rows are not touched.
    assert (found["update"].block, found["update"].bytes) == ("cache_write", 2 * 8 * 2 + 4)
    assert (found["nameless"].block, found["nameless"].bytes) == ("mlp", 2 * 4 * 16)
    assert (found["loop"].block, found["loop"].bytes) == ("", 0)
    assert (found["gemm"].kind, found["gemm"].flops) == ("matmul", 128)
    assert found["gemm"].bytes == 4 * (32 + 8 + 16)  # without the library's workspace
    assert found["many"].bytes == 4 * (32 + 5 * 16 + 32)
    assert found["joined"].bytes == 4 * 12 * 16
    assert found["begun"].kind == "collective"


def test_figures_of_a_hand_made_trace():
    second = 1e9
    line = [Op(("jit_f", 7), "loop", 1 * second, 5 * second), Op(("jit_f", 7), "product", 2 * second, 4 * second)]
    other = [Op(("jit_f", 7), "nameless", 3 * second, 4 * second), Op(("gone", 1), "x", 8 * second, 9 * second)]
    host = [Span("step", 0, 10 * second), Span("update", 0, 10 * second), Span("update", 20 * second, 30 * second)]
    programs = {("jit_f", 7): Program("jit_f", 7, HLO, {}, {})}
    figures = summarise(Trace([line, other], host), programs, Peaks(256, 1e9), ["update"], {"update": [Cost(640, 0)]})
    update = figures["phases"]["update"]
    assert figures["step"]["seconds"] == update["seconds"] == 10  # the second update is in no step
    assert (update["busy_seconds"], update["idle_seconds"], update["thread_seconds"]) == (5, 5, 6)
    assert update["kinds"] == {"matmul": 1.5, "attention": 0, "collective": 0, "other": 3.5}
    assert {name: block["seconds"] for name, block in update["blocks"].items()} == {UNNAMED: 3, "mlp": 2}
    assert (update["bound_seconds"], update["roofline_share"]) == (2.5, 0.25)
    assert update["gaps"][0] == {"what": IDLE, "seconds": 5, "bound_seconds": 0, "gap_seconds": 5}
    assert figures["ops"][0]["op"] == "loop"
    assert figures["ops"][0]["seconds"] == 2
    assert figures["ops_of_unknown_programs"] == 1


def made_up_phase(seconds, blocks, idle=0.0, need=(0.0, 0.0), flops=0.0):
    """A phase whose blocks are (seconds, bound) by name; `need` is in seconds at peaks of 1."""
    found = {name: {"seconds": wall, "bound_seconds": bound} for name, (wall, bound) in blocks.items()}
    core = blocks.get("attend", (0.0,))[0]
    gaps = [(name, wall, bound) for name, (wall, bound) in [*blocks.items(), (IDLE, (idle, 0.0))] if wall > bound]
    gaps.sort(key=lambda gap: gap[2] - gap[1])
    return {
        "seconds": seconds,
        "idle_seconds": idle,
        "kinds": {"matmul": seconds - core - idle, "attention": core, "collective": 0.0, "other": 0.0},
        "flops": flops or need[0],
        "needed_flops": need[0],
        "needed_bytes": need[1],
        "bound_seconds": max(need),
        "roofline_share": max(need) / seconds if any(need) else None,
        "blocks": found,
        "gaps": [{"what": what, "seconds": wall, "bound_seconds": bound} for what, wall, bound in gaps],
    }


def made_up_profile(platform="cpu", phases=None, sizes=(), settings=(), **others):
    phases = phases or {"rollout": made_up_phase(8.0, {"mlp": (7.0, 6.5)}, 1.0, (0.5, 6.0))}
    whole = sum(phase["seconds"] for phase in phases.values())
    kinds = {name: sum(p["kinds"][name] for p in phases.values()) for name in next(iter(phases.values()))["kinds"]}
    return {
        "steps": 2,
        "platform": platform,
        "dtype": "bfloat16",
        "peaks": {"flops": 1.0, "bytes_per_second": 1.0},
        "step": {"seconds": whole, "idle_seconds": sum(p["idle_seconds"] for p in phases.values())},
        "phases": phases,
        "kinds": kinds,
        "ops": [{"op": "dot.1"}],
        "compilations": [],
        "sizes": {
            "updates": 1,
            "micro_batches": 4,
            "responses": 64,
            "rows_at_once": 64,
            "longest_response": 300,
            "decode_weight_bytes": 5.0,
            "decode_cache_bytes": 1.0,
        }
        | dict(sizes),
        "settings": {
            "sampling.segment_tokens": 64,
            "sampling.max_rows": 512,
            "grpo.micro_batch_tokens": 2048,
            "model.remat": "everything",
            "model.attention": "xla",
            "rewards.structure.judge": "rules",
            "rewards.structure.concurrency": 16,
        }
        | dict(settings),
    } | others


ROLLOUT = {"rollout": made_up_phase(2.0, {"mlp": (2.0, 1.9)}, 0.0, (0.1, 1.8))}
WAITING = {"reward": made_up_phase(6.0, {}, 6.0)} | ROLLOUT
CORE = {"update": made_up_phase(5.0, {"attend": (4.0, 0.5), "mlp": (1.0, 0.9)}, 0.0, (1.0, 0.1))}
SLOW = {"update": made_up_phase(5.0, {"mlp": (5.0, 1.0)}, 0.0, (1.0, 0.1), flops=1.5)}
GATHERING = {"update": made_up_phase(5.0, {"mlp": (5.0, 0.5)}, 0.0, (1.0, 0.1))}
GATHERING["update"]["kinds"] |= {"collective": 4.0, "matmul": 1.0}


@pytest.mark.parametrize(
    ("profile", "sentences"),
    [
        (
            {},
            (
                "A rollout takes 8 s; 87.5 % of all time is matrix products.",
                "needs at least 6 s, bound by bytes (FLOP 500 ms, bytes 6 s): it reaches 75.0 % of its roofline, and "
                "its largest gap is device idle (1 s against a bound of 0).",
                "Try: more responses a step, since all 64 share each reading of the weights: 6.5 s of the rollout is "
                "what its ops need at the measured peaks; then a larger sampling.segment_tokens (now 64;",
            ),
        ),
        (
            {"sizes": {"responses": 2048, "rows_at_once": 512}},
            ("", "", "more rows at once (sampling.max_rows=512; 512 of 2048 responses"),
        ),
        ({"sizes": {"decode_cache_bytes": 9.0}}, ("", "", "Try: more devices or shorter texts: 6.5 s")),
        ({"platform": "gpu", "dtype": "float32"}, ("", "", "Try: model.dtype=bfloat16, which halves the bytes: 6.5 s")),
        (
            {"phases": WAITING},
            (
                "The reward takes 75.0 % of a step (6 s of 8 s), the rollout 25.0 %; 75.0 % of all time is an idle",
                "The model's arithmetic sets no bound for the reward; the device is idle for 6 s of it.",
                "Try: the host's lines in the trace, since no setting is known to help: the device is idle for 6 s",
            ),
        ),
        (
            {"phases": WAITING, "settings": {"rewards.structure.judge": "endpoint"}},
            ("", "", "Try: a faster judge or more calls at once (rewards.structure.concurrency=16): the device is"),
        ),
        (
            {"phases": CORE},
            (
                "An update takes 5 s; 80.0 % of all time is the core of attention.",
                "bound by FLOP (FLOP 1 s, bytes 100 ms): it reaches 20.0 % of its roofline, and its largest gap is "
                "attend (4 s against a bound of 500 ms).",
                "Try: shorter prompts and responses, since the core of attention grows with both: it takes 3.5 s",
            ),
        ),
        (
            {"phases": CORE, "platform": "gpu"},
            ("", "", "Try: cuDNN's attention (model.dtype=bfloat16 model.attention=cudnn): it takes 3.5 s"),
        ),
        (
            {"phases": SLOW},
            ("", "", "Try: a larger grpo.micro_batch_tokens (now 2048, 4 micro-batches a step): ops outside of attend"),
        ),
        (
            {"phases": SLOW, "sizes": {"micro_batches": 1}},
            ("", "", "Try: model.remat=attention where memory allows (1.50 times the FLOP needed are done): ops"),
        ),
        (
            {"phases": SLOW, "sizes": {"micro_batches": 1}, "settings": {"model.remat": "nothing"}},
            (
                "",
                "",
                "Try: the largest ops of the table: ops outside of attend take 4 s beyond their bounds in the upda",
            ),
        ),
        (
            {"phases": GATHERING, "sizes": {"micro_batches": 1}},
            ("is collectives.", "", "Try: a mesh with fewer parts where memory allows: collectives take 4 s"),
        ),
        (
            {"compilations": [{"seconds": 9.0}]},
            ("", "", "Try: more traced steps (now steps=2), for 9 s of these went into compiling"),
        ),
        (
            {"ops": []},
            (
                "A rollout takes 8 s; the trace names no op, so it does not say which work that is.",
                "it reaches 75.0 % of its roofline.",
                "Try: nothing follows from these figures, since the trace names no op",
            ),
        ),
    ],
)
def test_conclusion_follows_from_the_figures(profile, sentences):
    summary = made_up_profile(**profile)
    kept = deepcopy(summary)
    found = conclusion(summary)
    assert len(found) == 3
    assert summary == kept
    for sentence, part in zip(found, sentences, strict=True):
        assert part in sentence
        assert sentence.endswith(".")


@pytest.mark.parametrize("measured", get_args(Measured))
def test_conclusion_follows_from_measured_phases(measured):
    steps = object.__new__(Steps)  # one that has measured this phase alone
    completions = [SimpleNamespace(tokens=[5] * count) for count in (2, 3, 4)]
    rollouts = SimpleNamespace(prompts=[[1, 2]] * 3, completions=completions, group=1)
    engine = SimpleNamespace(plan=lambda prompts, sampling: SimpleNamespace(rows=2))
    steps._rollouts = None if measured == "update" else rollouts
    steps._updates = [["batch"] * 4] if measured in ("step", "update") else None
    steps.sampler = SimpleNamespace(engine=lambda params: engine, sampling=None)
    steps.state, steps._arithmetic = SimpleNamespace(params=None), Arithmetic(named_shape("nano"), 4, 1)
    phases = SLOW | {"old": SLOW["update"], "reference": SLOW["update"]} | WAITING
    phases = phases if measured == "step" else {measured: phases[measured]}
    with jax.set_mesh(jax.make_mesh((1, 1), ("replica", "fsdp"))):
        sizes = steps.sizes()
    assert ("rows_at_once" in sizes) == (measured != "update")
    found = conclusion(made_up_profile(phases=phases) | {"sizes": sizes})
    assert ("of 3 responses are decoded together" in found[2]) == (measured == "rollout")


def test_unwanted_events_are_noted_with_their_phase():
    doubled = jax.jit(lambda x: x * 2)
    doubled(jnp.ones(3)).block_until_ready()
    with watching() as seen:
        with seen.phase("update"):
            doubled(jnp.ones(5)).block_until_ready()
        with seen.phase("rollout"):
            doubled(np.ones(3, np.float32)).block_until_ready()
    (compiled,) = [one for one in seen.compilations if one.function == "<lambda>"]
    assert compiled.phase == "update"
    assert compiled.seconds > 0
    assert "float32[5]" in compiled.cause or "f32[5]" in compiled.cause
    assert seen.transfers["rollout", "host-to-device", "ShapedArray(float32[3])"] == 1
