"""scripts/plan.py: phases, memory and traffic of a run on devices that are only described."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from socialr1_jax.config.loading import load_config
from socialr1_jax.config.run import PlanConfig
from socialr1_jax.models.arithmetic import Cost
from socialr1_jax.plan.advice import advice
from socialr1_jax.plan.phase import DoesNotFit, Phase
from socialr1_jax.plan.plan import Plan
from socialr1_jax.plan.tables import print_plan
from socialr1_jax.runtime.chips import CHIPS, parse_topology

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "socialr1_8b_a100x8.yaml"
SMALL = (
    "model.path=none",
    "model.random=tiny",
    "data.max_prompt_tokens=100",
    "sampling.max_new_tokens=100",
    "grpo.prompts_per_step=16",
    "grpo.mini_batch_prompts=8",
)
PHASES = (
    "reshard",
    "prefill",
    "cache growth",
    "decode",
    "reference log-probs",
    "old log-probs",
    "backward",
    "optimizer",
)


def plan(*arguments, config=CONFIG):
    return subprocess.run(
        [sys.executable, "scripts/plan.py", "--config", str(config), *arguments],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "150"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def rows(output, phase):
    """The cells of every line of the tables that begins with the phase."""
    lines = [line.strip("│┃ ").split("│") for line in output.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line] for line in lines if line[0].strip() == phase]


@pytest.fixture(scope="module")
def small():
    done = plan("--topology", "cpu:8", "model.dtype=float32", *SMALL)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_phase_is_planned(small):
    for phase in PHASES:
        (first, *_) = rows(small, phase)
        assert float(first[-1]) > 0  # peak
    assert "model.random" not in small
    assert re.search(r"it fits: [a-z -]+ needs most memory and leaves [\d.]+ GiB a device free", small)


def test_decoding_has_no_collectives_and_the_update_has(small):
    assert [cells[2] for cells in rows(small, "decode")[1:]] == ["none"]
    kinds = {cells[2] for cells in rows(small, "backward")[1:]}
    assert "all-gather" in kinds
    assert kinds & {"all-reduce", "reduce-scatter"}


def test_shortfall_exits_1_with_phase_and_excess():
    split = "sampling.tensor=2"
    done = plan("--topology", "cpu:8", "model.dtype=float32", *SMALL, split, "--memory_fraction", "1e-6")
    assert done.returncode == 1
    in_the_loop = {cells[2] for cells in rows(done.stdout, "decode")[1:]}
    assert in_the_loop == {f"{kind} in the loop" for kind in ("all-reduce", "all-to-all", "all-gather")}
    for phase in ("backward", "decode"):
        assert f"plan.py: {phase} does not fit: " in done.stderr
    assert "GiB more than the 0.00 GiB that it may take\n" in done.stderr
    assert "plan.py: weights, moments and reference alone take" in done.stderr
    assert "no batch size fits; it needs at least" in done.stderr
    assert "it fits" not in done.stdout


# ------------------------------------------------------------------------------------------------------------- advice

GIB = 1 << 30
ROW = ("data.max_prompt_tokens=1024", "sampling.max_new_tokens=3072")  # 4,096 tokens


def made(config, parts=("rollout", "update")):
    """A plan of a model of 40 GiB of weights and moments, whose rows of the update take 12 GiB each."""
    chip, shape = parse_topology(config.topology)
    devices = int(np.prod(shape))
    row = 12 if config.model.remat == "everything" else 16
    rows = max(1, config.grpo.micro_batch_tokens // 4096)
    whole = 40 // devices * GIB
    taken = {"update": whole + rows * row * GIB, "rollout": config.sampling.max_rows * GIB // config.mesh.tensor}
    phases = [
        Phase(
            name={"update": "backward", "rollout": "decode"}[part],
            part=part,
            calls=1,
            steps=1,
            arguments=taken[part] - whole * (part == "update"),
            outputs=0,
            temporaries=0,
            beside={"weights": whole} if part == "update" else {},
            cost=Cost(),
            kernels=[],
            collectives=[],
        )
        for part in parts
    ]
    if config.mesh.tensor > 2:
        raise DoesNotFit("decode does not fit", "rollout")
    allowed = int(80 * GIB * config.memory_fraction)
    resident = {"weights": whole // 2, "moments": whole - whole // 2}
    return Plan(
        chip=chip, devices=devices, backend="xla", memory=80 * GIB, allowed=allowed, resident=resident, phases=phases
    )


# (settings, part, what the advice says, what it does not)
ADVICE = [
    (  # 8 rows of 12 GiB beside 40 of 60
        ["grpo.micro_batch_tokens=32768", "memory_fraction=0.75"],
        "update",
        "It fits with grpo.micro_batch_tokens=4096: 52.00 GiB a device, 8.00 GiB free",
        "topology",
    ),
    (  # one row of 16 GiB: fewer are no help, less kept for the backward pass is
        ["grpo.micro_batch_tokens=4096", "model.remat=nothing", "memory_fraction=0.66"],
        "update",
        "It fits with model.remat=everything: 52.00 GiB a device",
        "micro_batch_tokens",
    ),
    (
        ["grpo.micro_batch_tokens=8192", "model.remat=nothing", "memory_fraction=0.66"],
        "update",
        "It fits with grpo.micro_batch_tokens=4096 model.remat=everything: 52.00",
        "topology",
    ),
    (  # nothing is left to lower
        ["grpo.micro_batch_tokens=4096", "memory_fraction=0.625"],
        "update",
        "one row of 4,096 tokens alone takes 52.00 GiB (backward); weights and moments alone take 40.00 GiB a device. "
        "It fits with topology=a100-80gb:2: 32.00 GiB a device, 18.00 GiB free",
        "micro_batch",
    ),
    (
        ["grpo.micro_batch_tokens=4096", "memory_fraction=0.4"],
        "update",
        "weights and moments alone take 40.00 GiB a device, and 32.00 GiB may be used: no batch size fits; it "
        "needs at least 2 such devices",
        "micro_batch",
    ),
    (
        ["memory_fraction=0.75"],
        "rollout",  # 320 responses
        "It fits with sampling.max_rows=40: 40.00 GiB a device, 20.00 GiB free",
        "tensor",
    ),
    (
        ["topology=cpu:1", "model.dtype=float32", "grpo.micro_batch_tokens=4096", "memory_fraction=0.625"],
        "update",
        "weights and moments alone take 40.00 GiB a device. Lower sampling.max_new_tokens",
        "It fits",
    ),
]


@pytest.mark.parametrize(("settings", "part", "said", "unsaid"), ADVICE)
def test_what_is_proposed_has_been_planned_and_fits(settings, part, said, unsaid):
    config = load_config(PlanConfig, None, ["model.path=m", "topology=a100-80gb:1", *ROW, *settings])
    plan = made(config, (part,))
    assert plan.parts_too_large == [part]
    [line] = advice(config, plan, plan.parts_too_large, made)
    assert said in line
    assert unsaid not in line


def test_a_phase_that_the_compiler_refused_gets_advice():
    config = load_config(PlanConfig, None, ["model.path=m", "topology=v5p:2x2", "mesh.tensor=4", *ROW])
    plan = made(config.model_copy(update={"mesh": config.mesh.model_copy(update={"tensor": 1})}), ())
    [line] = advice(config, plan, ["rollout"], made)
    assert "one row of 4,096 tokens alone does not fit" in line
    assert "8 times the devices do not help" in line


def test_expected_hours_stand_beside_the_bound(capsys):
    """A phase of 100 s of compute and one of 120 s of memory: 250 and 200 s at 40 and at 60 % of the peak."""
    chip = CHIPS["a100-80gb"]
    costs = {"backward": Cost(100 * chip.flops, 0.0), "decode": Cost(0.0, 120 * chip.bandwidth)}
    phases = [
        Phase(
            name=name,
            part="update",
            calls=1,
            steps=1,
            arguments=30 * GIB,
            outputs=0,
            temporaries=0,
            beside={},
            cost=cost,
            kernels=[],
            collectives=[],
        )
        for name, cost in costs.items()
    ]
    plan = Plan(chip=chip, devices=1, backend="xla", memory=chip.memory, allowed=40 * GIB, resident={}, phases=phases)
    print_plan(plan, load_config(PlanConfig, None, ["model.path=m", "steps=9"]))
    out = capsys.readouterr().out
    assert [cells[-2:] for cells in rows(out, "backward")[-1:]] == [["100.00", "250.00"]]
    assert rows(out, "a step")[0][-2:] == ["220.00", "450.00"]
    assert rows(out, "9 steps")[0][-2:] == ["0.6 h", "1.1 h"]
    assert "expected: 40% of the peak in compute, 60% of the peak in memory" in " ".join(out.split())
    assert "it fits: backward needs most memory and leaves 10.00 GiB a device free" in out
    print_plan(plan, load_config(PlanConfig, None, ["model.path=m", "epochs=2"]))
    assert rows(capsys.readouterr().out, "32 steps: epochs 2 over 1,000 questions")[0][-2:] == ["2.0 h", "4.0 h"]


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--topology", "b200:8"), "unknown chip 'b200'"),
        (("--topology", "cpu:8", "mesh.fsdp=3"), "is not the 8 devices"),
        (("--topology", "cpu:6", *SMALL[:2]), "fsdp=6 does not"),
        (("--topology", "cpu:8", "model.path=nowhere"), "neither a model folder nor one of Qwen/Qwen3-"),
    ],
)
def test_what_does_not_fit_together_is_one_error(arguments, message):
    done = plan("model.dtype=float32", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(find_spec("jax_cuda12_plugin") is not None, reason="the plugin is installed")
def test_a_missing_plugin_names_the_extra():
    done = plan("--topology", "a100-80gb:8", *SMALL)
    assert done.returncode == 2
    assert "pip install -e '.[cuda12]' in the repository" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jax_cuda12_plugin") is None, reason="needs pip install -e '.[cuda12]'")
@pytest.mark.parametrize("size", ["4b", "8b"])
def test_the_cards_recipes_fit_eight_a100(size):
    done = plan("--topology", "a100-80gb:8", config=ROOT / "configs" / f"socialr1_{size}_a100x8.yaml")
    assert done.returncode == 0, done.stderr
    for phase in PHASES:
        assert float(rows(done.stdout, phase)[0][-1]) <= 72
    assert "fmhaScaleBiasSoftmaxBackward" in rows(done.stdout, "backward")[1][1]  # the bias: packed rows' mask
    assert "fmhaSoftmax" in rows(done.stdout, "prefill")[1][1]
    assert [cells[2] for cells in rows(done.stdout, "decode")[1:-1]] == ["none"]
    gathers = [cells[2] for cells in rows(done.stdout, "backward")[1:-1] if "all-gather" in cells[2]]
    assert gathers
    assert all(name.startswith("async") for name in gathers)
