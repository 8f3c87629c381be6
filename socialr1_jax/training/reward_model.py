"""Train the content reward model: a Qwen3 with a new scalar head learns which of two thoughts is better."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.table import Column, Table

from socialr1_jax.config.reward_model import RewardModelConfig
from socialr1_jax.config.rewards import ContentConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.data.pairs import Pair, read_pairs
from socialr1_jax.grpo.optimizer import make_optimizer, make_schedule
from socialr1_jax.grpo.packing import bin_count
from socialr1_jax.grpo.update import Update, init_state, make_update
from socialr1_jax.models.attention import Backend
from socialr1_jax.models.attention_trial import working_attention
from socialr1_jax.models.blockwise import Segments
from socialr1_jax.models.qwen3 import Params
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.models.reward_model import RewardModel, position_scores
from socialr1_jax.models.text_bins import Unit, bin_width, fill_bins, lay_out
from socialr1_jax.questions.pipeline import PromptStream
from socialr1_jax.rewards.content_model import ContentModel, check_tokenizer, content_prompts
from socialr1_jax.run.console import Bar, console, working
from socialr1_jax.run.epochs import in_steps
from socialr1_jax.run.folder import refuse_another_run, wall_seconds
from socialr1_jax.run.provenance import about_run
from socialr1_jax.run.run import Run, running, say_devices
from socialr1_jax.run.summary import peak_rss_bytes
from socialr1_jax.runtime.files import read_json, write_json
from socialr1_jax.runtime.interrupt import Stop
from socialr1_jax.runtime.mesh import P, fetch, place, replicas, row_shards
from socialr1_jax.runtime.ownership import refuse_foreign_folder
from socialr1_jax.runtime.processes import is_first, wait_for_all
from socialr1_jax.runtime.terminal import counted
from socialr1_jax.training.preferences import bradley_terry, pair_accuracy, preference_metrics, swap_consistency
from socialr1_jax.weights.hf import init_reward_model, load_hf, random_model
from socialr1_jax.weights.hf_export import save_reward_model
from socialr1_jax.weights.hf_folder import files_dtype
from socialr1_jax.weights.tokenizer_files import load_tokenizer

_MOST_SKIPPED = 5  # consecutive non-finite updates that stop the run
log = logging.getLogger(__name__)


def train_reward_model(config: RewardModelConfig) -> bool:
    """Train a reward model on `config.data.pairs`; return True if the run is complete, False if interrupted.

    All output goes to `config.output_dir`: metrics.jsonl, checkpoints/, summary.json with the metrics of held-out
    pairs, and export/, a Qwen3ForSequenceClassification folder for `rewards.content.model`. If there is a checkpoint,
    the run resumes from it.

    Raises ConfigError if the folder holds a run of another configuration or if no pairs are left to train or evaluate
    on, TrainingStopped if five updates in a row were not finite, and the errors of `load_hf` and `read_pairs`.
    """
    with running(config) as stop:
        return _train(config, stop)


def _train(config: RewardModelConfig, stop: Stop) -> bool:
    folder = Path(config.output_dir)
    refuse_foreign_folder(folder / "export", "config.json")
    sides = split_by_story(read_pairs(config.data.pairs), config.data.holdout)
    config, about_steps = in_steps(config, len(sides[0]), config.batch.pairs)
    for line in about_steps:
        console.print(line)
    refuse_another_run(config, folder / "config.yaml")
    # Barrier: every process must look for an earlier run before any process writes to the folder.
    wait_for_all(f"start of {config.output_dir}", config.distributed.timeout)
    with working(f"loading {config.model.path}"):
        model, tokenizer, export_dtype = _loaded(config)
        train, heldout, dropped = _pairs(config, sides, tokenizer, model.config)
    console.print(f"{counted(len(train), 'pair')} to train on, {len(heldout)} held out, {dropped} dropped as too long")
    backend = working_attention(config.model.attention, config.model.dtype)
    say_devices(backend)
    schedule = make_schedule(config.optimizer, config.steps)
    optimizer = make_optimizer(config.optimizer, schedule)
    update = pair_update(config, model.config, optimizer, backend)
    state = init_state(model.params, optimizer, config.optimizer.moments_memory)
    shape, source = model.config, model.source
    del model  # `state` owns the weights now
    run = Run(config, state, {}, about_run(config, shape, source), stop)
    del state  # a restored checkpoint may have replaced it
    if jax.default_backend() != "cpu":  # accelerator memory is limited: fail now if it does not fit
        with working("trying the widest micro-batch"):
            longest = max(train, key=lambda pair: pair.unit(0).length)
            widest: Any = pair_batches([longest] * config.batch.pairs, config)[0].placed()
            jax.block_until_ready(update.accumulate(run.state.params, update.begin(run.state.params, widest), widest))

    @cache  # the last evaluation is also used in the summary
    def evaluated(step: int) -> dict[str, float]:
        with working(f"evaluating after step {step}"):
            settings, weights = ContentConfig(batch_tokens=config.batch.micro_batch_tokens), run.state.params
            scorer = ContentModel(RewardModel(shape, weights), tokenizer, settings, config.model.dtype, backend)
            return _evaluated(scorer, heldout, swapped=step == config.steps)

    with run:
        _steps(config, run, update, schedule, train, evaluated)
        run.finish()
        save_reward_model(RewardModel(shape, run.state.params, source=source), folder / "export", export_dtype)
        summary = evaluated(config.steps) | {"steps": config.steps, "train_pairs": len(train), "dropped_pairs": dropped}
        summary |= {"wall_seconds": round(wall_seconds(folder), 1), "peak_rss_bytes": peak_rss_bytes()}
        if is_first():
            write_json(folder / "summary.json", summary)
    return run.complete


def _loaded(config: RewardModelConfig) -> tuple[RewardModel, Any, str]:
    path, random, mesh = config.model.path, config.model.random, jax.sharding.get_mesh()
    if random:
        base = random_model(path, random, config.seed, mesh)
    else:
        base = load_hf(path, mesh, ignore_fields=config.model.ignore_fields)
    tokenizer = load_tokenizer(base.source)
    model = init_reward_model(base, jax.random.key(config.seed), tokenizer.pad_token_id)
    check_tokenizer(tokenizer, model.config)
    return model, tokenizer, config.model.export_dtype or ("float32" if random else files_dtype(base.source or ""))


def _steps(
    config: RewardModelConfig,
    run: Run,
    update: Update,
    schedule: optax.Schedule,
    train: "Sequence[PairTokens]",
    evaluated: Callable[[int], dict[str, float]],
) -> None:
    """Run the remaining steps, each one update, with an evaluation every `evaluate_every` steps."""
    counts, stream = run.counts, PromptStream(len(train), config.batch.pairs, config.seed)

    def evaluate(step: int) -> None:
        metrics = evaluated(step)
        counts.evaluated = step
        run.log.metrics("eval", step, metrics)
        console.print(
            f"step {step}: held-out accuracy {metrics['accuracy']:.3f} +- {metrics['accuracy_stderr']:.3f}, "
            f"loss {metrics['loss']:.3f} ({counted(int(metrics['pairs']), 'pair')})"
        )

    with Bar("reward model", config.steps, counts.finished) as bar:
        for number in run.steps(evaluate, config.evaluate_every):
            begun = time.perf_counter()
            batches = pair_batches([train[i] for i in stream.batch(number)], config)
            placed: list[Any] = [batch.placed() for batch in batches]
            run.state, result, arrays = update(run.state, placed)
            metrics = {name: float(fetch(x)) for name, x in result.items()}
            scores_p2 = np.concatenate(
                [fetch(outputs["scores_bt"])[batch.real_p] for outputs, batch in zip(arrays, batches, strict=True)]
            )
            counts.finished += 1
            seconds = time.perf_counter() - begun
            metrics |= {
                "accuracy": pair_accuracy(scores_p2[:, 0] - scores_p2[:, 1]),
                "margin": float((scores_p2[:, 0] - scores_p2[:, 1]).mean()),
                "score": float(scores_p2.mean()),
                "learning_rate": float(schedule(max(0, int(run.state.updates) - 1))),
                "tokens_per_second": metrics["tokens"] / seconds,
                "seconds": seconds,
            }
            run.log.metrics("reward_model", counts.finished, metrics)
            bar.advance(f"loss {metrics['loss']:.3f}  accuracy {metrics['accuracy']:.2f}  {seconds:.1f} s")
            counts.skipped_in_a_row = counts.skipped_in_a_row + 1 if metrics["skipped"] else 0
            too_many = counts.skipped_in_a_row == _MOST_SKIPPED
            counts.skipped_in_a_row %= _MOST_SKIPPED  # a resumed run starts with a clean count
            run.keep()
            if too_many:
                raise run.halted(
                    f"{_MOST_SKIPPED} updates in a row had a loss or gradient that is not finite; they left weights "
                    "and moments unchanged: lower optimizer.learning_rate"
                )


# --------------------------------------------------------------------------------------------------------- the batches


class PairTokens(NamedTuple):
    """A pair and the token ids of its two texts."""

    pair: Pair
    chosen: list[int]
    rejected: list[int]

    def unit(self, number: int) -> Unit:
        """Return the pair as a unit: the shared prefix, then both texts, numbered 2 x number and 2 x number + 1."""
        shorter = min(len(self.chosen), len(self.rejected))
        same = (i for i in range(shorter) if self.chosen[i] != self.rejected[i])
        cut = min(next(same, shorter), shorter - 1)
        return Unit([2 * number, 2 * number + 1], self.chosen[:cut], [self.chosen[cut:], self.rejected[cut:]])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PairRows:
    """A micro-batch: packed rows, and the flat indices of the last tokens of each pair's two texts.

    Each replica has places for all pairs of an update, so that all micro-batches share one compiled program: `p` is
    their product. `real_p` masks the unused places. Indices count within the rows of a replica.
    """

    tokens_bt: Any
    lengths_b: Any
    segments: Segments
    ends_p2: Any
    margin_p: Any
    real_p: Any

    def placed(self) -> "PairRows":
        """Return the rows on the devices, split over the context's mesh."""
        tokens_bt, lengths_b, segments = jax.tree.map(place, (self.tokens_bt, self.lengths_b, self.segments))
        ends_p2, margin_p, real_p = (place(x, P("replica")) for x in (self.ends_p2, self.margin_p, self.real_p))
        return PairRows(tokens_bt, lengths_b, segments, ends_p2, margin_p, real_p)


def pair_batches(pairs: Sequence[PairTokens], config: RewardModelConfig) -> list[PairRows]:
    """Pack the pairs of an update into micro-batches of one shape; both texts of a pair share a micro-batch."""
    units = [pair.unit(i) for i, pair in enumerate(pairs)]
    width = bin_width(max(unit.length for unit in units))
    filled = fill_bins(units, width)
    count = bin_count(config.batch.micro_batch_tokens, width, row_shards())
    places = replicas() * config.batch.pairs
    batches = []
    for first in range(0, len(filled), count):
        bins = lay_out(filled[first : first + count], width, count)
        numbers = [item // 2 for item in bins.items[::2]]
        ends_p2, margin_p = np.zeros((places, 2), np.int32), np.zeros(places, np.float32)
        replica_n, ends_n2 = np.divmod(np.reshape(bins.ends, (-1, 2)), count * width // replicas())
        place_n = replica_n[:, 0] * config.batch.pairs + np.arange(len(numbers))
        ends_p2[place_n] = ends_n2
        if config.loss.margin:
            margin_p[place_n] = [pairs[i].pair.margin for i in numbers]
        batches.append(
            PairRows(
                tokens_bt=bins.tokens_bt,
                lengths_b=bins.lengths_b,
                segments=bins.segments,
                ends_p2=ends_p2,
                margin_p=margin_p,
                real_p=np.isin(np.arange(places), place_n),
            )
        )
    return batches


def pair_update(
    config: RewardModelConfig, model: Qwen3Config, optimizer: optax.GradientTransformation, backend: Backend
) -> Update:
    """Return the update that minimises the mean Bradley-Terry loss of a step's pairs."""

    def loss_fn(params: Params, rows: Any) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
        scores_bt = position_scores(
            params,
            model,
            rows.tokens_bt,
            rows.lengths_b,
            dtype=config.model.dtype,
            backend=backend,
            remat=config.model.remat,
            segments=rows.segments,
        )
        scores_p2 = scores_bt.reshape(-1)[rows.ends_p2]
        total, denominator = bradley_terry(
            scores_p2[:, 0], scores_p2[:, 1], rows.margin_p, rows.real_p, centring=config.loss.centring
        )
        tokens = jnp.sum(rows.lengths_b).astype(jnp.float32)
        return total, (denominator, {"tokens": tokens, "scores_bt": jax.lax.stop_gradient(scores_p2)})

    return make_update(loss_fn, optimizer)


# ----------------------------------------------------------------------------------------------------------- the pairs


def split_by_story(pairs: Sequence[Pair], share: float) -> tuple[list[Pair], list[Pair]]:
    """Return (pairs to train on, held-out pairs) with no story on both sides; `share` of the stories are held out.

    Twins (`meta.twin_id`), which tell one story in two orders, stay together. The split depends on the stories alone,
    so different runs are evaluated on the same held-out stories.
    """
    above: dict[str, str] = {}  # union-find: from a story or twin id to its parent

    def group(name: str) -> str:
        while above.setdefault(name, name) != name:
            name = above[name]
        return name

    stories = [" ".join(pair.story.split()) for pair in pairs]
    for pair, story in zip(pairs, stories, strict=True):
        above[group(story)] = group(f"twins {pair.meta['twin_id']}" if "twin_id" in pair.meta else story)
    names = sorted({group(story) for story in stories})
    count = max(1, round(share * len(names)))
    if len(names) <= count:
        raise ConfigError(
            f"data.holdout {share} of {len(names)} stories leaves none to train on: give pairs of more stories"
        )
    out = {names[i] for i in np.random.default_rng(0).permutation(len(names))[:count]}
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for pair, story in zip(pairs, stories, strict=True):
        sides[group(story) in out].append(pair)
    return sides


def _pairs(
    config: RewardModelConfig, parts: Sequence[Sequence[Pair]], tokenizer: Any, model: Qwen3Config
) -> tuple[list[PairTokens], list[PairTokens], int]:
    """Return the tokenized pairs to train on, those held out, and the number of pairs dropped as too long."""
    limit = min(config.data.max_tokens, model.max_position_embeddings)
    sides, dropped = [], 0
    for pairs in parts:
        chosen = content_prompts(tokenizer, [(p.story, p.question, p.chosen) for p in pairs], limit)
        rejected = content_prompts(tokenizer, [(p.story, p.question, p.rejected) for p in pairs], limit)
        side = [PairTokens(pair, c, r) for pair, c, r in zip(pairs, chosen, rejected, strict=True) if c and r]
        dropped += len(pairs) - len(side)
        if not side:
            raise ConfigError(f"no pair is left whose texts have at most {limit} tokens: raise data.max_tokens")
        sides.append(side)
    if dropped:
        log.warning("dropped %d pairs with a text longer than %d tokens; data.max_tokens keeps more", dropped, limit)
    return sides[0], sides[1], dropped


# ------------------------------------------------------------------------------------------------------- the evaluation


def _evaluated(scorer: ContentModel, pairs: Sequence[PairTokens], *, swapped: bool) -> dict[str, float]:
    """Return the metrics of held-out pairs; `swapped` also scores them with the rejected texts first."""
    scores_p2 = scorer.score([row for pair in pairs for row in (pair.chosen, pair.rejected)]).reshape(-1, 2)
    lengths_p2 = np.array([(len(pair.pair.chosen), len(pair.pair.rejected)) for pair in pairs])
    metrics = preference_metrics(scores_p2, lengths_p2)
    difference_p = scores_p2[:, 0] - scores_p2[:, 1]
    for stage in sorted({pair.pair.stage for pair in pairs} - {""}):
        of_stage = np.array([pair.pair.stage == stage for pair in pairs])
        metrics[f"accuracy/{stage}"] = pair_accuracy(difference_p[of_stage])
    if swapped:
        again_p2 = scorer.score([row for pair in pairs for row in (pair.rejected, pair.chosen)]).reshape(-1, 2)
        metrics["swap_consistency"] = swap_consistency(difference_p, again_p2[:, 0] - again_p2[:, 1])
    return metrics


def say_results(folder: Path) -> None:
    """Print the held-out metrics of the finished run in `folder`."""
    metrics = read_json(folder / "summary.json")
    title = f"{counted(int(metrics['pairs']), 'held-out pair')} of stories that training never saw"
    table = Table("", Column("value", justify="right"), title=title)
    for name, value in metrics.items():
        table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else f"{value:,}")
    console.print(table)
