"""The GRPO trainer. One step, read from top to bottom in `train_grpo`: sample, reward, advantages, update, log."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from transformers import AutoTokenizer

from socialr1_jax.config import ConfigError, RewardConfig, RunConfig, load_config, save_config
from socialr1_jax.data.examples import Example, read_examples
from socialr1_jax.data.pipeline import PromptStream
from socialr1_jax.data.prompts import PromptSet, encode_prompts
from socialr1_jax.evaluation.questions import evaluate_questions, response_record
from socialr1_jax.grpo.advantages import group_advantages, groups_without_variance
from socialr1_jax.grpo.logprobs import row_logprobs
from socialr1_jax.grpo.losses import policy_loss
from socialr1_jax.grpo.update import Rows, init_state, make_update, map_rows, pack_rows
from socialr1_jax.hf import load_hf, random_model, save_hf
from socialr1_jax.mesh import fetch, make_mesh
from socialr1_jax.models.attention import Backend, attention_backend
from socialr1_jax.models.qwen3 import Params, Qwen3, Qwen3Config
from socialr1_jax.processes import any_of_all, divided, is_first, join, wait_for_all
from socialr1_jax.rewards import RewardTerms, score_response
from socialr1_jax.sampling import Completion, Engine, SamplingParams
from socialr1_jax.sampling.text import decode_responses, stop_token_ids
from socialr1_jax.training.checkpoints import Checkpoints
from socialr1_jax.training.console import Bar, console, shown_log, working
from socialr1_jax.training.interrupt import stop_after_step
from socialr1_jax.training.metrics import RunLog
from socialr1_jax.training.optimizer import make_optimizer, make_schedule

_ROW_MULTIPLE = 16  # widths of packed rows are multiples of this, so that few programs are compiled
_ROLLOUTS_KEPT = 32  # training responses of a step that rollouts.jsonl keeps; evaluations keep all


def train_grpo(config: RunConfig) -> bool:
    """Trains `config.model.path` on `config.data.train`; True when the run is complete, False when it was interrupted.

    Everything goes into `config.output_dir`. A run that has a checkpoint there goes on from it. Ctrl-C (or SIGTERM)
    finishes the step and saves. Raises ConfigError when the folder holds a run of another configuration or the batch
    does not divide over the devices, and what `load_hf` and `read_examples` raise.
    """
    join(config.distributed)
    console.quiet = not is_first()
    mesh = run_mesh(config)
    with jax.set_mesh(mesh), shown_log():
        return _train_grpo(config, mesh)


def _train_grpo(config: RunConfig, mesh: Mesh) -> bool:
    folder = Path(config.output_dir)
    if (folder / "checkpoints").exists():
        refuse_another_run(config, folder / "config.yaml")
    # Nobody writes before all have looked: what another process begins is no earlier run.
    wait_for_all(f"start of {config.output_dir}", config.distributed.timeout)
    with working(f"loading {config.model.path}"):
        path, random = config.model.path, config.model.random
        model = random_model(path, random, config.seed, mesh) if random else load_hf(path, mesh)
        tokenizer = AutoTokenizer.from_pretrained(model.source)
        train, heldout = _questions(config, tokenizer)
    group = config.sampling.group_size
    sampling = SamplingParams(
        n=group,
        seed=config.seed,
        stop_token_ids=stop_token_ids(model, tokenizer),
        **config.sampling.model_dump(exclude={"group_size", "segment_tokens", "max_rows"}),
    )
    backend = attention_backend(config.model.attention, config.model.dtype, jax.default_backend())
    console.print(f"mesh {dict(mesh.shape)} of {jax.devices()[0].device_kind}, attention {backend}")
    programs = compile_programs(config, model.config, model.num_tokens, backend)
    # No reference pass is made when the KL coefficient is 0.
    reference = reference_weights(model.params, config.model.dtype) if config.grpo.kl_coefficient else None
    state, first = init_state(model.params, programs.optimizer), 0
    # From here on the state holds the weights; what was read is let go.
    shape, source, num_tokens = model.config, model.source, model.num_tokens
    del model
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint)
    if checkpoints.latest is not None:
        state, first = checkpoints.restore(state), checkpoints.latest
        console.print(f"resuming after step {first} of {config.steps}")
    log = RunLog(folder, config.tracking, first_step=first + 1 if first else 0, config=config.model_dump())
    if is_first():
        save_config(config, folder / "config.yaml")
    stream = PromptStream(len(train.prompts), config.grpo.prompts_per_step, config.seed)

    def engine() -> Engine:
        return Engine(
            params=state.params,
            config=shape,
            num_tokens=num_tokens,
            dtype=config.model.dtype,
            backend=backend,
            segment_tokens=config.sampling.segment_tokens,
            max_rows=config.sampling.max_rows,
        )

    def evaluate(step: int) -> None:
        with working(f"evaluating after step {step}"):
            questions = replace(sampling, n=config.evaluation.samples)
            metrics, records = evaluate_questions(engine(), heldout, questions, tokenizer, config.reward)
        log.metrics("eval", step, metrics)
        log.rollouts({"phase": "eval", "step": step, **record} for record in records)
        console.print(
            f"step {step}: held-out accuracy {metrics['accuracy']:.3f} +- {metrics['accuracy_stderr']:.3f}, "
            f"format {metrics['format_rate']:.3f}, reward {metrics['reward']:.2f} ({metrics['responses']} responses)"
        )

    if first == 0:
        evaluate(0)
    finished = first
    stopping = False  # asked for in any process
    with stop_after_step() as stop, Bar("grpo", config.steps, first) as bar:
        while finished < config.steps and not stopping:
            laps = _Laps()

            # Sample a group of responses for each prompt of the step.
            chosen = stream.batch(finished)
            prompts = [train.prompts[i] for i in chosen]
            groups = engine().sample(prompts, sampling, step=finished, prompt_ids=chosen)
            completions = [completion for members in groups for completion in members]
            laps.end("rollout")

            # Reward every response; NaN where one could not be scored. Compare it with its group.
            examples = [train.examples[i] for i in chosen for _ in range(group)]
            texts = decode_responses(tokenizer, completions)
            score = partial(_score, step=finished, config=config.reward)
            terms = [RewardTerms(**term) for term in divided(score, list(zip(texts, examples, strict=True)))]
            rewards_b = np.array([t.total for t in terms])
            rewards_b[[completion.finish_reason == "error" for completion in completions]] = np.nan
            rewards_pg = rewards_b.reshape(-1, group)
            grpo = config.grpo
            advantages_b = group_advantages(rewards_pg, grpo.preset, scale=grpo.scale_advantages).reshape(-1)
            laps.end("reward")

            # Update on the sampler's own token ids; an unscorable response leaves the loss, too.
            rows = pack_rows(
                [prompt for prompt in prompts for _ in range(group)],
                [completion.tokens for completion in completions],
                multiple=_ROW_MULTIPLE,
                advantages_b=advantages_b.astype(np.float32),
            )
            rows.mask_bt[~np.isfinite(rewards_pg.reshape(-1))] = False
            rows = programs.with_logprobs(rows, state.params, reference)
            updates = []
            mini_batch = grpo.mini_batch_prompts * group
            for start in range(0, len(completions), mini_batch):
                state, result = programs.update(state, rows.take(slice(start, start + mini_batch)).placed())
                updates.append(result)
            updates = jax.device_get(updates)
            laps.end("update")
            finished += 1
            stopping = any_of_all(stop.asked)

            # Log, and now and then evaluate and save.
            metrics = _reward_metrics(terms, completions, rewards_pg) | {
                **{name: float(np.mean([u[name] for u in updates])) for name in updates[0] if name != "tokens"},
                "learning_rate": float(programs.schedule(int(state.updates) - 1)),
                "tokens_per_second": sum(len(c.tokens) for c in completions) / laps.total,
                **laps.seconds,
            }
            log.metrics("grpo", finished, metrics)
            kept = zip(examples, texts, completions, terms, advantages_b, range(_ROLLOUTS_KEPT), strict=False)
            log.rollouts(
                {"phase": "grpo", "step": finished, "advantage": float(advantage)}
                | response_record(example, i % group, text, completion.finish_reason, term)
                for example, text, completion, term, advantage, i in kept
            )
            bar.advance(
                f"reward {metrics['reward/total']:.2f}  accuracy {metrics['accuracy']:.2f}  "
                f"format {metrics['format_rate']:.2f}  kl {metrics['kl']:.4f}  {laps.total:.1f} s"
            )
            if _due(finished, config.evaluation.every) and finished < config.steps:
                evaluate(finished)
            if _due(finished, config.checkpoint.every) or finished == config.steps or stopping:
                checkpoints.save(finished, state)
    if finished == config.steps:
        evaluate(finished)
        save_hf(Qwen3(shape, state.params, source=source, num_tokens=num_tokens), folder / "export")
    checkpoints.close()
    log.close()
    wait_for_all(f"end of {config.output_dir}", config.distributed.timeout)
    return finished == config.steps


class Programs(NamedTuple):
    """What is compiled for a run."""

    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    update: Any  # (state, rows) -> (state, metrics)
    logprobs: Any  # (params, rows) -> [b, t]
    several_updates: bool  # of one rollout; with one, the ratio is exactly 1 and no old-policy pass is made

    def with_logprobs(self, rows: Rows, params: Params, reference: Params | None) -> Rows:
        """The rows with the log-probs that the loss needs, of the policy that sampled and of the reference."""
        placed = rows.placed()
        old = fetch(self.logprobs(params, placed)) if self.several_updates else None
        ref = fetch(self.logprobs(reference, placed)) if reference is not None else None
        return replace(rows, old_logp_bt=old, ref_logp_bt=ref)


def run_mesh(config: RunConfig) -> Mesh:
    """The mesh of the configuration over the devices present; ConfigError when it or the batch does not divide."""
    try:
        mesh = make_mesh(config.mesh.replica, config.mesh.fsdp or None, config.mesh.tensor)
    except ValueError as error:
        raise ConfigError(f"mesh: {error}") from error
    check_batch(config, mesh)
    return mesh


def check_batch(config: RunConfig, mesh: Mesh) -> None:
    """Raises ConfigError when the run's micro-batches do not divide over the mesh."""
    shards, micro = mesh.shape["replica"] * mesh.shape["fsdp"], config.grpo.micro_batch_rows
    if micro % shards:
        raise ConfigError(
            f"grpo.micro_batch_rows {micro} does not divide over the {shards} devices of mesh.replica x mesh.fsdp; "
            f"set grpo.micro_batch_rows to a multiple of {shards}, or mesh.replica and mesh.fsdp to less"
        )


@partial(jax.jit, static_argnums=1)
def reference_weights(params: Params, dtype: str) -> Params:
    """A copy of the starting weights in the computation's dtype, laid out like them."""
    return jax.tree.map(lambda x: jnp.array(x, dtype, copy=True), params)


def compile_programs(config: RunConfig, model: Qwen3Config, num_tokens: int, backend: Backend) -> Programs:
    """The jitted functions of a run; `num_tokens` are the ids that the tokenizer knows."""
    grpo = config.grpo

    def logprobs(params: Params, rows: Rows) -> tuple[jax.Array, jax.Array]:
        return row_logprobs(
            params,
            model,
            rows.tokens_bt,
            rows.lengths_b,
            config.sampling.temperature,
            num_tokens=num_tokens,
            dtype=config.model.dtype,
            wanted_bt=rows.mask_bt,
            backend=backend,
            remat=config.model.remat,
        )

    def loss_fn(params: Params, rows: Rows) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
        logp_bt, entropy_bt = logprobs(params, rows)
        total, tokens, metrics = policy_loss(
            logp_bt,
            rows.old_logp_bt,
            rows.ref_logp_bt,
            rows.advantages_b,
            rows.mask_bt,
            grpo.preset,
            clip_low=grpo.clip_low,
            clip_high=grpo.clip_high,
            kl_coefficient=grpo.kl_coefficient,
        )
        entropy = jnp.sum(jnp.where(rows.mask_bt, entropy_bt, 0.0))
        return total, (tokens, metrics | {"entropy": entropy})

    schedule = make_schedule(config.optimizer, config.updates)
    optimizer = make_optimizer(config.optimizer, schedule)
    return Programs(
        optimizer,
        schedule,
        make_update(loss_fn, optimizer, grpo.micro_batch_rows),
        map_rows(lambda params, rows: logprobs(params, rows)[0], grpo.micro_batch_rows),
        grpo.mini_batch_prompts < grpo.prompts_per_step,
    )


def _score(pair: tuple[str, Example], *, step: int, config: RewardConfig) -> dict[str, Any]:
    text, example = pair
    return asdict(score_response(text, example.answer, step=step, config=config))


class _Laps:
    """Wall seconds of the phases of one step."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def end(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[f"seconds/{name}"], self._last = now - self._last, now

    @property
    def total(self) -> float:
        return self._last - self._start

    @property
    def seconds(self) -> dict[str, float]:
        return {"seconds": self.total, **self._laps}


def _questions(config: RunConfig, tokenizer: Any) -> tuple[PromptSet, PromptSet]:
    """Training and held-out questions with their prompts."""
    data = config.data
    train = read_examples(data.train, columns=data.columns, where=data.where)
    if data.eval:
        heldout = read_examples(data.eval, columns=data.columns, where=data.where)
    else:
        if len(train) <= data.holdout:
            raise ConfigError(
                f"data.train has {len(train)} questions and data.holdout takes {data.holdout}: lower data.holdout"
            )
        order = np.random.default_rng(0).permutation(len(train))  # not the run's seed: runs compare on the same ones
        heldout = [train[i] for i in sorted(order[: data.holdout])]
        train = [train[i] for i in sorted(order[data.holdout :])]
    return (
        encode_prompts(tokenizer, train, data.max_prompt_tokens),
        encode_prompts(tokenizer, heldout[: config.evaluation.questions], data.max_prompt_tokens),
    )


def refuse_another_run(config: RunConfig, saved: Path) -> None:
    """Raises ConfigError when `saved`, the configuration of the run in this folder, is not `config`.

    Which process this is, and where the others are, may be another: a run goes on by any number of them.
    """
    before, now = load_config(type(config), saved).model_dump(), config.model_dump()
    differing = [name for name in now if name != "distributed" and before[name] != now[name]]
    if differing:
        raise ConfigError(
            f"{saved.parent} holds a run of another configuration (it differs in {', '.join(differing)}): "
            "give another output_dir, or remove the folder"
        )


def _reward_metrics(
    terms: Sequence[RewardTerms], completions: Sequence[Completion], rewards_pg: np.ndarray
) -> dict[str, float]:
    """Means over the step's responses of the total and of every raw term, beside the weights that made the total."""
    raw = {f"reward/{name}": np.array([t.raw()[name] for t in terms]) for name in terms[0].raw()}
    scored = {name: float(np.nanmean(values)) for name, values in raw.items() if not np.isnan(values).all()}
    return {
        "reward/total": float(np.nanmean(rewards_pg)),
        **scored,
        "reward/unscorable": float(np.isnan(rewards_pg).mean()),
        "weight/structure": terms[0].weights["structure"],
        "weight/content": terms[0].weights["content"],
        "accuracy": float(raw["reward/outcome"].mean()),
        "format_rate": float(raw["reward/format"].mean()),
        "response_tokens": float(np.mean([len(c.tokens) for c in completions])),
        "truncated": float(np.mean([c.finish_reason == "length" for c in completions])),
        "sampling_errors": float(sum(c.finish_reason == "error" for c in completions)),
        "zero_variance_groups": groups_without_variance(rewards_pg),
    }


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
