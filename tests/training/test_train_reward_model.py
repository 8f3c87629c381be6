"""The reward model's trainer through its script: it learns, resumes, refuses, and its export loads elsewhere."""

import importlib.util
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

from socialr1_jax.config.loading import load_config
from socialr1_jax.config.reward_model import RewardModelConfig
from socialr1_jax.config.rewards import ContentConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.data.pairs import Pair, write_pairs
from socialr1_jax.data.tokenizer import build_tokenizer
from socialr1_jax.models.qwen3 import Qwen3, init_params
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.models.reward_model import reward_scores
from socialr1_jax.rewards.content_model import content_prompts, load_content_model
from socialr1_jax.training import reward_model
from socialr1_jax.training.reward_model import (
    PairTokens,
    pair_batches,
    pair_update,
    split_by_story,
    train_reward_model,
)
from socialr1_jax.weights.hf_export import save_hf
from socialr1_jax.weights.hf_folder import files_dtype

ROOT = Path(__file__).parents[2]
NAMES, PLACES = ("Anna", "Ben", "Cleo", "Dan"), ("box", "bag", "tin", "pot")


def make_pairs(count: int) -> list[Pair]:
    """The chosen thoughts name the place of the story, the rejected ones another; stories come in twos."""
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(count):
        name, place, other = NAMES[rng.integers(4)], *rng.permutation(PLACES)[:2]
        pairs.append(
            Pair(
                id=f"p{i}",
                story=f"Day {i // 2}. {name} puts the ball in the {place}.",
                question="Where is it?",
                chosen=f"{name} put it there, so it is in the {place}. " * int(rng.integers(1, 3)),
                rejected=f"{name} put it there, so it is in the {other}. " * int(rng.integers(1, 3)),
                margin=0.5,
                stage=("", "encode")[i % 2],
            )
        )
    return pairs


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """base/: a random Qwen3 with its tokenizer; pairs.jsonl; config.yaml."""
    folder = tmp_path_factory.mktemp("base")
    pairs = make_pairs(400)
    write_pairs(folder / "pairs.jsonl", pairs)
    texts = [f"{p.story} {p.question} {p.chosen} user\n assistant\n" for p in pairs]
    tokenizer = build_tokenizer(texts, 420)
    tokenizer.save_pretrained(folder / "tokenizer")
    shape = Qwen3Config(
        vocab_size=420,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
        initializer_range=0.125,
        max_position_embeddings=128,
    )
    params = jax.jit(init_params, static_argnums=0)(shape, jax.random.key(0))
    model = Qwen3(shape, params, source=str(folder / "tokenizer"), num_tokens=420)
    save_hf(model, folder / "base")
    config = {
        "steps": 40,
        "evaluate_every": 20,
        "model": {"path": str(folder / "base"), "remat": "nothing"},
        "data": {"pairs": str(folder / "pairs.jsonl"), "holdout": 0.2},
        "batch": {"pairs": 16, "micro_batch_tokens": 512},
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 5, "beta2": 0.95, "weight_decay": 0.0},
        "checkpoint": {"every": 20},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def configured(base: Path, out: Path, *overrides: str) -> RewardModelConfig:
    return load_config(RewardModelConfig, base / "config.yaml", [f"output_dir={out}", *overrides])


def script():
    spec = importlib.util.spec_from_file_location("train_reward_model", ROOT / "scripts" / "train_reward_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def update_once():
    """Runs of equal losses share the jitted gradient, and those of equal optimizers the update."""
    kept = {}

    def shared(config, model, optimizer, backend, real=reward_model.pair_update):
        update = real(config, model, optimizer, backend)
        key = tuple(map(str, (config.loss, config.model.dtype, config.model.remat, model, backend)))
        accumulate = kept.setdefault(key, update).accumulate
        return kept.setdefault((*key, str(config.optimizer), config.steps), replace(update, accumulate=accumulate))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reward_model, "pair_update", shared)
        yield


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert script().main(["--config", str(base / "config.yaml"), "--output_dir", str(folder)]) == 0
    return folder


# --- learning


def test_pairs_teach_about_unseen_stories(finished):
    summary = json.loads((finished / "summary.json").read_text())
    first = next(row for row in lines(finished) if row["phase"] == "eval")
    assert abs(first["accuracy"] - 0.5) < 0.25
    assert summary["accuracy"] >= 0.95
    assert summary["loss"] < 0.3 < first["loss"]
    train, heldout = split_by_story(make_pairs(400), 0.2)
    assert (summary["train_pairs"], summary["pairs"]) == (len(train), len(heldout))
    assert summary["swap_consistency"] == 1.0
    assert summary["accuracy/encode"] >= 0.9
    for name in ("margin", "calibration_error", "length_correlation", "accuracy_length_matched", "wall_seconds"):
        assert np.isfinite(summary[name]), name


def test_the_run_folder_tells_every_step(finished):
    rows = lines(finished)
    assert [row["step"] for row in rows if row["phase"] == "reward_model"] == list(range(1, 41))
    assert [row["step"] for row in rows if row["phase"] == "eval"] == [0, 20, 40]
    step = next(row for row in rows if row["phase"] == "reward_model")
    for name in ("loss", "accuracy", "margin", "grad_norm", "learning_rate", "tokens", "tokens_per_second", "skipped"):
        assert name in step
    assert load_config(RewardModelConfig, finished / "config.yaml").output_dir == str(finished)


def test_export_loads_in_transformers_with_equal_scores(finished):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(finished / "export").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(finished / "export")
    texts = [(p.story, p.question, p.chosen) for p in make_pairs(6)]
    rows = content_prompts(tokenizer, texts, 128)
    width = max(map(len, rows))
    padded = torch.tensor([[*row, *[tokenizer.pad_token_id] * (width - len(row))] for row in rows])
    with torch.no_grad():
        theirs = loaded(padded, attention_mask=(padded != tokenizer.pad_token_id).long()).logits[:, 0].numpy()
    ours = load_content_model(ContentConfig(model=str(finished / "export")))(texts)
    assert np.ptp(theirs) > 1e-3
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-4)


# --- resume


def test_a_resumed_run_equals_the_uninterrupted_one(base, finished, tmp_path, monkeypatch, capsys):
    class StopsAfter23(reward_model.Bar):
        def advance(self, text):
            super().advance(text)
            if self.done == 23:
                os.kill(os.getpid(), signal.SIGTERM)

    config = configured(base, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(reward_model, "Bar", StopsAfter23)
        assert not train_reward_model(config)
    # The signal comes during the 23rd step's last act: the thread that receives it may be too late for this step.
    stopped = [row["step"] for row in lines(tmp_path) if row["phase"] == "reward_model"][-1]
    assert stopped in (23, 24)
    assert not (tmp_path / "export").exists()
    assert train_reward_model(config)
    assert f"resuming after step {stopped} of 40" in capsys.readouterr().out
    weights = [(folder / "export" / "model.safetensors").read_bytes() for folder in (finished, tmp_path)]
    assert weights[0] == weights[1]

    def timeless(folder):
        return [{k: v for k, v in row.items() if "second" not in k} for row in lines(folder)]

    assert timeless(tmp_path) == timeless(finished)


def test_export_has_the_dtype_of_files_or_setting(base, finished, tmp_path):
    assert files_dtype(finished / "export") == files_dtype(base / "base") == "float32"
    short = ("steps=1", "evaluate_every=0", "optimizer.warmup_steps=0", "model.export_dtype=bfloat16")
    assert train_reward_model(configured(base, tmp_path, *short))
    assert files_dtype(tmp_path / "export") == "bfloat16"


# --- the batches


@pytest.fixture(scope="module")
def tokenised(base):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer")
    pairs = make_pairs(7)
    chosen = content_prompts(tokenizer, [(p.story, p.question, p.chosen) for p in pairs], 128)
    rejected = content_prompts(tokenizer, [(p.story, p.question, p.rejected) for p in pairs], 128)
    return [PairTokens(*each) for each in zip(pairs, chosen, rejected, strict=True)]


def test_update_is_the_mean_however_pairs_are_cut(base, tmp_path):
    """Against plain autodiff of one right-padded row a text: packing and shared beginnings change nothing."""
    shape = Qwen3Config(
        vocab_size=420,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
        initializer_range=0.1,
        scalar_head=True,
    )
    params = jax.jit(init_params, static_argnums=0)(shape, jax.random.key(2))
    rng = np.random.default_rng(0)
    texts = [[1, 2, 3, *rng.integers(4, 420, length).tolist()] for length in rng.integers(5, 25, 14)]
    pairs = [PairTokens(pair, *texts[2 * i : 2 * i + 2]) for i, pair in enumerate(make_pairs(7))]
    tokens_bt, lengths_b = np.zeros((14, 32), np.int32), np.array([len(row) for row in texts])
    for i, row in enumerate(texts):
        tokens_bt[i, : len(row)] = row

    def plain(params):
        scores_p2 = reward_scores(params, shape, jnp.asarray(tokens_bt), jnp.asarray(lengths_b), dtype="float32")
        chosen_p, rejected_p = scores_p2.reshape(-1, 2).T
        loss_p = -jax.nn.log_sigmoid(chosen_p - rejected_p - 0.5) + 0.1 * (chosen_p + rejected_p) ** 2
        return loss_p.mean()

    loss, gradient = jax.jit(jax.value_and_grad(plain))(params)
    expected = np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(gradient)])
    config = configured(
        base, tmp_path, "batch.pairs=7", "batch.micro_batch_tokens=64", "loss.margin=true", "loss.centring=0.1"
    )
    parts = pair_batches(pairs, config)
    assert len(parts) > 1
    assert len({part.tokens_bt.shape for part in parts}) == 1
    assert sum(int(part.real_p.sum()) for part in parts) == 7
    update = pair_update(config, shape, optax.sgd(1.0), "xla")
    placed = [part.placed() for part in parts]
    sums = update.begin(params, placed[0])
    for part in placed:
        sums, _ = update.accumulate(params, sums, part)
    assert float(sums.numbers["denominator"]) == 7.0
    assert float(sums.numbers["loss"]) / 7 == pytest.approx(float(loss), rel=1e-5)
    found = np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(sums.gradient)]) / 7
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


def test_what_two_texts_share_is_there_once(tokenised):
    for number, pair in enumerate(tokenised):
        unit = pair.unit(number)
        assert [unit.shared + own for own in unit.own] == [pair.chosen, pair.rejected]
        assert unit.own[0][0] != unit.own[1][0]
        assert unit.length < len(pair.chosen) + len(pair.rejected) - 20  # story and question at least


# --- the split


def test_stories_and_twins_stay_on_one_side():
    pairs = make_pairs(60)
    pairs += [
        Pair(id="t0", story=" Day  0. twin", question="q", chosen="a", rejected="b", meta={"twin_id": "x"}),
        Pair(id="t1", story="Day 1. twin", question="q", chosen="a", rejected="b", meta={"twin_id": "x"}),
        Pair(id="t2", story="Day 0. twin", question="q", chosen="a", rejected="b", meta={"twin_id": "y"}),
    ]
    stories = len({" ".join(pair.story.split()) for pair in pairs})
    for share in (0.1, 0.3, 0.5, 0.9):
        train, heldout = split_by_story(pairs, share)
        sides = [{" ".join(pair.story.split()) for pair in side} for side in (train, heldout)]
        assert not sides[0] & sides[1]
        assert len(train) + len(heldout) == 63
        assert abs(len(sides[1]) - share * stories) <= 3
        twins = [{pair.id for pair in side} & {"t0", "t1", "t2"} for side in (train, heldout)]
        assert set() in twins
        assert split_by_story(pairs[::-1], share)[1] == heldout[::-1]  # whatever the file's order
    with pytest.raises(ConfigError, match="give pairs of more stories"):
        split_by_story(pairs[:1], 0.5)


# --- refusals


def test_a_folder_with_another_run_is_refused(base, finished):
    with pytest.raises(ConfigError, match=r"another configuration \(loss.margin False -> True\)"):
        train_reward_model(configured(base, finished, "loss.margin=true"))


def test_bad_input_is_one_message_without_files(base, tmp_path, capsys):
    bad = tmp_path / "pairs.jsonl"
    row = {"id": "a", "story": "s", "question": "q", "chosen": "same", "rejected": "same"}
    bad.write_text(json.dumps(row) + "\n")
    run = ["--config", str(base / "config.yaml"), f"output_dir={tmp_path / 'run'}"]
    assert script().main([*run, f"data.pairs={bad}"]) == 2
    assert "same text" in capsys.readouterr().err
    assert script().main([*run, "data.max_tokens=20"]) == 2
    assert "raise data.max_tokens" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path=", "model.path is required"),
        ("data.pairs=", "data.pairs is required"),
        ("optimizer.warmup_steps=40", "leaves none of the run's 40 updates"),
        ("model.attention=cudnn", "set model.dtype to bfloat16"),
        ("loss.margins=true", "did you mean 'loss.margin'"),
    ],
)
def test_settings_that_do_not_fit_are_named(base, override, message):
    with pytest.raises(ConfigError, match=message):
        configured(base, Path("anywhere"), override)


def test_every_setting_is_read():
    """A field that nothing reads is a promise not kept."""
    files = (
        "training/reward_model.py",
        "run/run.py",
        "grpo/optimizer.py",
        "run/checkpoints.py",
        "run/metrics.py",
        "runtime/processes.py",
        "cli.py",
    )
    text = "\n".join((ROOT / "socialr1_jax" / name).read_text() for name in files)

    def fields(section, prefix=""):
        for name, field in section.model_fields.items():
            inner = field.annotation
            yield from fields(inner, f"{name}.") if hasattr(inner, "model_fields") else [prefix + name]

    unread = [name for name in fields(RewardModelConfig) if f".{name.rpartition('.')[2]}" not in text]
    assert unread == []


def test_the_published_configuration_is_valid(capsys):
    with pytest.raises(SystemExit) as caught:
        script().main(
            ["--config", str(ROOT / "configs/reward_model_4b_a100x8.yaml"), "data.pairs=p.jsonl", "--dry-run"]
        )
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "64 pairs = 128 texts" in shown


def test_epochs_are_those_of_training_pairs(base, tmp_path, monkeypatch):
    def refuse(config: RewardModelConfig, saved: Path) -> None:
        raise ConfigError(f"steps {config.steps}, epochs {config.epochs}")

    monkeypatch.setattr(reward_model, "refuse_another_run", refuse)
    train, heldout = split_by_story(make_pairs(400), 0.2)
    assert len(train) + len(heldout) == 400
    with pytest.raises(ConfigError, match=f"^steps {-(-len(train) * 3 // 32)}, epochs 0.0$"):
        train_reward_model(configured(base, tmp_path, "epochs=1.5"))
    with pytest.raises(ConfigError, match=f"^steps {configured(base, tmp_path).steps}, epochs 0.0$"):
        train_reward_model(configured(base, tmp_path))
    with pytest.raises(ConfigError, match=r"^steps and epochs are both given"):
        configured(base, tmp_path, "epochs=1.5", "steps=9")


def test_five_nonfinite_updates_stop_the_run(base, tmp_path, capsys):
    run = ["--config", str(base / "config.yaml"), f"output_dir={tmp_path}", "optimizer.learning_rate=1e38"]
    assert script().main([*run, "optimizer.warmup_steps=0", "optimizer.max_grad_norm=1e30"]) == 1
    assert "5 updates in a row" in capsys.readouterr().err
    assert [row["skipped"] for row in lines(tmp_path) if row["phase"] == "reward_model"][-5:] == [1.0] * 5
