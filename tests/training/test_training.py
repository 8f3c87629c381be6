"""The trainer end to end on a toy: outputs, resume, interruption, refusals; the update against plain gradients."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import yaml
from jax.sharding import NamedSharding
from tensorboardX.event_file_writer import EventsWriter
from toys import lines, timeless, toy

from socialr1_jax import load_hf
from socialr1_jax.config.loading import load_config
from socialr1_jax.config.run import OptimizerConfig, RunConfig, TrackingConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.data.question_files import read_examples
from socialr1_jax.grpo.optimizer import make_optimizer, make_schedule
from socialr1_jax.grpo.packing import Rows, micro_batches, pack_rows
from socialr1_jax.grpo.update import init_state, make_update
from socialr1_jax.rewards import scorer
from socialr1_jax.run.metrics import RunLog
from socialr1_jax.runtime.mesh import P, make_mesh
from socialr1_jax.stories.corruptions import egocentric
from socialr1_jax.training import grpo, quickstart
from socialr1_jax.training.quickstart import run_quickstart

pytestmark = pytest.mark.usefixtures("programs_once")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart")
    assert run_quickstart(toy(folder))
    return folder


def test_the_run_folder_holds_what_design_promises(finished):
    for name in (
        "config.yaml",
        "metrics.jsonl",
        "rollouts.jsonl",
        "checkpoints",
        "export",
        "summary.json",
        "report.html",
    ):
        assert (finished / name).exists(), name
    assert list((finished / "tensorboard").glob("events*"))
    summary = json.loads((finished / "summary.json").read_text())
    for key in ("accuracy_sft", "accuracy_grpo", "format_rate_grpo", "reward_sft", "reward_grpo", "wall_seconds"):
        assert key in summary
    assert summary["heldout_responses"] == 8
    assert summary["peak_rss_bytes"] > 1e8
    assert summary["export_logit_difference"] < 2e-4


def test_metrics_name_every_raw_term_beside_its_weight(finished):
    rows = [row for row in lines(finished / "metrics.jsonl") if row["phase"] == "grpo"]
    assert [row["step"] for row in rows] == [1, 2]
    for term in ("total", "format", "outcome", "structure", "length_window", "repetition", "unscorable"):
        assert f"reward/{term}" in rows[0]
    assert rows[0]["weight/structure"] == 2.0
    assert rows[1]["weight/structure"] == pytest.approx(2.0 - 1 / 200)
    assert rows[0]["learning_rate"] == pytest.approx(1e-3)
    assert [row["step"] for row in lines(finished / "metrics.jsonl") if row["phase"] == "eval"] == [0, 2]


def test_summary_has_types_twins_and_rules(finished):
    first, last = (row for row in lines(finished / "metrics.jsonl") if row["phase"] == "eval")
    summary = json.loads((finished / "summary.json").read_text())
    both = {
        name: [first["accuracy_by_type"][name], last["accuracy_by_type"][name]] for name in last["accuracy_by_type"]
    }
    assert both
    assert summary["accuracy_by_type"] == both
    assert (summary["pair_accuracy_sft"], summary["pair_accuracy_grpo"]) == (
        first["pair_accuracy"],
        last["pair_accuracy"],
    )
    for name in ("chance", "best_rule", "best_rule_accuracy", "best_rule_pair_accuracy"):
        assert summary[name] == first[name] == last[name]


def test_trackers_get_the_numbers_of_a_line_alone(tmp_path, monkeypatch):
    scalars = {}

    def write_event(self, event):
        scalars.update({value.tag: value.simple_value for value in event.summary.value})

    monkeypatch.setattr(EventsWriter, "write_event", write_event)
    values = {
        "accuracy_by_type": {"belief": 0.5, "x": float("nan")},
        "best_rule": "last",
        "loss": 2,
        "kl": float("inf"),
    }
    RunLog(tmp_path, TrackingConfig(), config={}).metrics("eval", 3, values)
    assert scalars == {"eval/accuracy/belief": 0.5, "eval/loss": 2}
    (row,) = lines(tmp_path / "metrics.jsonl")
    assert row == {
        "phase": "eval",
        "step": 3,
        "accuracy_by_type": {"belief": 0.5, "x": None},
        "best_rule": "last",
        "loss": 2,
        "kl": None,
    }


def test_rollouts_are_one_line_a_response(finished):
    rows = lines(finished / "rollouts.jsonl")
    assert {row["phase"] for row in rows} == {"grpo", "eval"}
    training = [row for row in rows if row["phase"] == "grpo"]
    assert len(training) == 2 * 4 * 4
    assert {
        "id",
        "sample",
        "story",
        "question",
        "options",
        "answer",
        "response",
        "reward",
        "terms",
        "advantage",
    } <= set(training[0])


def test_weights_change_and_the_export_has_them(finished):
    before, after = load_hf(finished / "sft"), load_hf(finished / "export")
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before.params, after.params)
    assert all(value > 0 for value in jax.tree.leaves(moved))


def test_interrupted_quickstart_equals_the_whole_one(finished, tmp_path, monkeypatch):
    """Ctrl-C while the first step is scored: it is done again; the resumed run ends with the same bytes."""
    real, calls = scorer.social_r1_reward, []

    def interrupt_once(*args, **kwargs):
        if not calls and len(lines(tmp_path / "metrics.jsonl")) > 2:  # sft, and the evaluation at 0
            calls.append(os.kill(os.getpid(), signal.SIGINT))
        return real(*args, **kwargs)

    monkeypatch.setattr(scorer, "social_r1_reward", interrupt_once)
    assert not run_quickstart(toy(tmp_path))
    assert not (tmp_path / "export").exists()
    assert (tmp_path / "report.html").exists()
    assert not [row for row in lines(tmp_path / "metrics.jsonl") if row["phase"] == "grpo"]
    assert grpo.train_grpo(load_config(RunConfig, tmp_path / "config.yaml"))
    weights = [(folder / "export" / "model.safetensors").read_bytes() for folder in (finished, tmp_path)]
    assert weights[0] == weights[1]
    rows = [[timeless(row) for row in lines(folder / "metrics.jsonl")] for folder in (finished, tmp_path)]
    assert rows[0] == rows[1]


def test_cold_start_is_egocentric_and_grpo_true(tmp_path, monkeypatch):
    imitated = []
    monkeypatch.setattr(quickstart, "train_sft", lambda model, _, examples, *rest: imitated.extend(examples) or model)
    monkeypatch.setattr(quickstart, "train_grpo", lambda config: False)
    monkeypatch.setattr(quickstart, "write_report", lambda folder: None)
    assert not run_quickstart(toy(tmp_path, sft={"steps": 5, "warmup_steps": 1, "egocentric": 1.0}))
    asked = read_examples(tmp_path / "questions" / "train.jsonl")
    assert imitated == [egocentric(example) for example in asked]
    assert imitated != asked


def test_folder_of_another_run_is_refused_by_key(finished):
    with pytest.raises(ConfigError, match=r"\(seed 0 -> 5\)"):
        run_quickstart(toy(finished).model_copy(update={"seed": 5}))
    config = load_config(RunConfig, finished / "config.yaml")
    with pytest.raises(ConfigError, match=r"\(steps 2 -> 1"):
        grpo.train_grpo(config.model_copy(update={"steps": 1}))
    few = {"steps": 600, "epochs": 0.1}  # of 40 questions, 4 in a step
    with pytest.raises(ConfigError, match=r"\(steps 2 -> 1: "):
        grpo.train_grpo(config.model_copy(update=few))
    with pytest.raises(ConfigError, match=r"\(steps 2 -> 1: "):
        run_quickstart(toy(finished).model_copy(update=few))


def test_the_saved_configuration_is_the_resolved_one(finished):
    saved = yaml.safe_load((finished / "config.yaml").read_text())
    assert saved["model"]["path"] == str(finished / "sft")
    assert saved["optimizer"]["learning_rate"] == 1e-3
    assert saved["steps"] == 2


# The update, on a loss small enough to differentiate by hand: mean over masked tokens of (w * token - 1)^2.
def square_loss(params, rows):
    error_bt = jnp.where(rows.mask_bt, (params["w"] * rows.tokens_bt - 1.0) ** 2, 0.0)
    tokens = jnp.sum(rows.mask_bt).astype(jnp.float32)
    return jnp.sum(error_bt), (tokens, {"tokens": tokens, "worst_max": jnp.max(error_bt), "error_bt": error_bt})


def some_rows(count: int = 10) -> Rows:
    rng = np.random.default_rng(0)
    prompts = [[1] * int(n) for n in rng.integers(1, 5, count)]
    responses = [rng.integers(0, 5, int(n)).tolist() for n in rng.integers(1, 9, count)]
    return pack_rows(prompts, responses, multiple=8)


@pytest.mark.parametrize("budget", [1, 8, 30, 1000])
def test_gradient_does_not_depend_on_micro_batches(budget):
    rows, optimizer = some_rows(), optax.sgd(0.1)
    parts = micro_batches(rows, budget, multiple=4)
    state, metrics, arrays = make_update(square_loss, optimizer)(
        init_state({"w": jnp.float32(0.5)}, optimizer), [part.rows.placed() for part in parts]
    )
    tokens = rows.tokens_bt[rows.mask_bt].astype(np.float64)
    gradient = np.mean(2 * (0.5 * tokens - 1) * tokens)
    assert float(state.params["w"]) == pytest.approx(0.5 - 0.1 * gradient, abs=1e-6)
    assert float(metrics["loss"]) == pytest.approx(np.mean((0.5 * tokens - 1) ** 2), rel=1e-6)
    assert float(metrics["grad_norm"]) == pytest.approx(abs(gradient), rel=1e-5)
    assert float(metrics["worst_max"]) == pytest.approx(((0.5 * tokens - 1) ** 2).max())
    assert (int(state.updates), int(state.skipped), float(metrics["skipped"])) == (1, 0, 0.0)
    error_bt = np.zeros(rows.tokens_bt.shape, np.float32)
    for part, of_rows in zip(parts, arrays, strict=True):
        part.spread(of_rows["error_bt"], error_bt)
    np.testing.assert_allclose(error_bt, np.where(rows.mask_bt, (0.5 * rows.tokens_bt - 1) ** 2, 0), atol=1e-6)


@pytest.mark.parametrize("poison", ["loss", "gradient", "log-prob"])
def test_nonfinite_update_changes_only_its_counter(poison):
    """Weights and moments stay bit for bit, and the next good update is as if the bad one had not been."""

    def loss_fn(params, rows):
        total, (tokens, metrics) = square_loss(params, rows)
        bad = jnp.any(rows.tokens_bt == 77)
        if poison == "loss":
            total = jnp.where(bad, jnp.nan, total)
        elif poison == "gradient":  # of the root at 0: infinite, where the value is 0
            total += jnp.sqrt(jnp.where(bad, params["w"] - jax.lax.stop_gradient(params["w"]), 1.0))
        metrics["nonfinite_count"] = jnp.where(bad & (poison == "log-prob"), 1.0, 0.0)
        return total, (tokens, metrics)

    def run(*batches):
        optimizer = optax.adam(0.1)
        update, state = make_update(loss_fn, optimizer), init_state({"w": jnp.float32(0.5)}, optimizer)
        for rows in batches:
            state, metrics, _ = update(state, [rows.placed()])
        return state, metrics

    good = some_rows()
    tokens_bt = good.tokens_bt.copy()
    tokens_bt[0, 0] = 77
    bad = replace(good, tokens_bt=tokens_bt)
    once, _ = run(good)
    state, metrics = run(good, bad)
    assert (int(state.updates), int(state.skipped), float(metrics["skipped"])) == (1, 1, 1.0)
    jax.tree.map(np.testing.assert_array_equal, state._replace(skipped=0), once._replace(skipped=0))
    late, expected = run(good, bad, good)[0], run(good, good)[0]
    jax.tree.map(np.testing.assert_array_equal, late._replace(skipped=0), expected._replace(skipped=0))


def test_tiny_update_changes_weights_loaded_as_bfloat16():
    optimizer = optax.sgd(1.0)
    state = init_state({"w": jnp.bfloat16(1.0)}, optimizer)
    assert state.params["w"].dtype == jnp.float32

    def tiny(params, rows):
        return 1e-6 * params["w"], (jnp.float32(1.0), {"tokens": jnp.float32(1.0)})

    state, *_ = make_update(tiny, optimizer)(state, [some_rows(4).placed()])
    assert float(state.params["w"]) == pytest.approx(1.0 - 1e-6, abs=6e-8)  # one float32 step
    assert float(state.params["w"]) != 1.0


def test_pack_rows_masks_the_response_only():
    rows = pack_rows([[1, 2], [3]], [[4], [5, 6, 7]], multiple=8)
    np.testing.assert_array_equal(rows.tokens_bt, [[1, 2, 4, 0, 0, 0, 0, 0], [3, 5, 6, 7, 0, 0, 0, 0]])
    np.testing.assert_array_equal(rows.lengths_b, [3, 4])
    np.testing.assert_array_equal(rows.mask_bt.nonzero()[1], [2, 1, 2, 3])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.5, 1, 1, 1, 1]), ("linear", [0.5, 1, 0.7, 0.4, 0.1]), ("cosine", [0.5, 1, 0.775, 0.325, 0.1])],
)
def test_schedules_by_hand(schedule, expected):
    config = OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup_steps=2, final_fraction=0.1)
    course = make_schedule(config, 5)
    np.testing.assert_allclose([course(0), course(2), course(3), course(4), course(5)], expected, atol=1e-6)


def test_the_optimizer_is_adamw_after_clipping():
    config = OptimizerConfig(learning_rate=0.1, max_grad_norm=1.0, weight_decay=0.5, epsilon=1e-8)
    optimizer = make_optimizer(config, make_schedule(config, 1))
    params, gradient = {"w": jnp.array([3.0, -2.0])}, {"w": jnp.array([30.0, 40.0])}
    change, _ = optimizer.update(gradient, optimizer.init(params), params)
    # clipped to (0.6, 0.8); Adam's first step is the sign; decay adds 0.5 * w
    np.testing.assert_allclose(change["w"], [-0.1 * (1 + 1.5), -0.1 * (1 - 1.0)], atol=1e-6)


@pytest.mark.parametrize("memory", ["device", "host"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_moments_lie_like_their_weights(name, memory):
    """On a mesh, as every run is; Muon has no moment of one kind for the weights of the other."""
    config = OptimizerConfig(name=name)
    with jax.set_mesh(make_mesh()):
        spec = NamedSharding(jax.sharding.get_mesh(), P(None, None, "fsdp"))
        params = {
            "norm": jax.device_put(jnp.ones(4), NamedSharding(spec.mesh, P())),
            "layers": {"q_proj": jax.device_put(jnp.ones((2, 4, 4)), spec)},
        }
        optimizer = make_optimizer(config, make_schedule(config, 10))
        state = init_state(params, optimizer, memory)
        weights = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(state.params)}
        moments = jax.tree_util.tree_leaves_with_path(state.opt_state)
        found = 0
        for path, moment in moments:
            own = [x for key, x in weights.items() if jax.tree_util.keystr(path).endswith(key)]
            assert isinstance(moment.sharding, NamedSharding)
            if own:
                found += 1
                assert moment.sharding.spec == own[0].sharding.spec
                assert moment.sharding.memory_kind == {"device": "device", "host": "pinned_host"}[memory]
        assert found >= len(weights)
