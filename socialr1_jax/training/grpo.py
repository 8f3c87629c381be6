"""The GRPO trainer. One step, read from top to bottom in `train_grpo`: sample, reward, advantages, update, log."""

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from transformers import AutoTokenizer

from socialr1_jax.config import ConfigError, RunConfig, Section, load_config, save_config
from socialr1_jax.data.examples import read_examples
from socialr1_jax.data.prompts import PromptSet, encode_prompts
from socialr1_jax.evaluation.questions import evaluate_questions
from socialr1_jax.grpo.advantages import group_advantages
from socialr1_jax.grpo.mismatch import RATIO_ERROR_LIMIT, mismatch
from socialr1_jax.grpo.packing import Rows, pack_rows, padding_waste, shared_prompts
from socialr1_jax.grpo.update import init_state
from socialr1_jax.hf import load_hf, random_model, save_hf
from socialr1_jax.mesh import fetch
from socialr1_jax.models.attention import attention_backend
from socialr1_jax.models.qwen3 import Qwen3
from socialr1_jax.processes import any_of_all, is_first, join, wait_for_all
from socialr1_jax.rewards import JudgeRefused
from socialr1_jax.rewards.extra import ExtraRewardError
from socialr1_jax.rewards.shares import ShareWatch
from socialr1_jax.sampling import Engine, SamplingParams
from socialr1_jax.sampling.text import stop_token_ids
from socialr1_jax.training.checkpoints import Checkpoints
from socialr1_jax.training.console import Bar, console, shown_log, working
from socialr1_jax.training.interrupt import stop_after_step
from socialr1_jax.training.metrics import RunLog
from socialr1_jax.training.programs import (
    MFU_FORMULA,
    compile_programs,
    reference_weights,
    row_multiple,
    run_mesh,
    trainer_logprobs,
)
from socialr1_jax.training.rollouts import Collector, Replay, RolloutFile, make_scorer
from socialr1_jax.training.unscorable import UnscorableWindow

_ROLLOUTS_KEPT = 32  # training responses of a step that rollouts.jsonl keeps; evaluations keep all
log = logging.getLogger(__name__)


class TrainingStopped(RuntimeError):
    """The run stopped itself; the message says why and where what it stopped at lies."""


def train_grpo(config: RunConfig) -> bool:
    """Trains `config.model.path` on `config.data.train`; True when the run is complete, False when it was interrupted.

    Everything goes into `config.output_dir`. A run that has a checkpoint there goes on from it. Ctrl-C (or SIGTERM)
    finishes the step and saves. Raises ConfigError when the folder holds a run of another configuration or the mesh
    does not fit the devices, TrainingStopped when `grpo.most_skipped` updates in a row were not finite, when more than
    `rewards.most_unscorable` of the responses could not be scored or when the judge refuses, and what `load_hf` and
    `read_examples` raise.
    """
    join(config.distributed)
    console.quiet = not is_first()
    mesh = run_mesh(config)
    with jax.set_mesh(mesh), shown_log():
        return _train_grpo(config, mesh)


def _train_grpo(config: RunConfig, mesh: Mesh) -> bool:
    folder, grpo = Path(config.output_dir), config.grpo
    if (folder / "checkpoints").exists():
        refuse_another_run(config, folder / "config.yaml")
    # Nobody writes before all have looked: what another process begins is no earlier run.
    wait_for_all(f"start of {config.output_dir}", config.distributed.timeout)
    replay = Replay(config) if config.replay_rollouts else None
    backend = attention_backend(config.model.attention, config.model.dtype, jax.default_backend())
    if replay is None:  # first: a key that is missing shows before the weights are read
        scorer = make_scorer(config, mesh, backend)
    with working(f"loading {config.model.path}"):
        path, random = config.model.path, config.model.random
        model = random_model(path, random, config.seed, mesh) if random else load_hf(path, mesh)
        if replay is None:
            tokenizer = AutoTokenizer.from_pretrained(model.source)
            train, heldout = _questions(config, tokenizer)
            sampling = SamplingParams(
                n=config.sampling.group_size,
                seed=config.seed,
                stop_token_ids=stop_token_ids(model, tokenizer),
                **config.sampling.model_dump(exclude={"group_size", "segment_tokens", "max_rows"}),
            )
    if replay is None:
        collect = Collector(config=config, sampling=sampling, questions=train, tokenizer=tokenizer, scorer=scorer)
    console.print(f"mesh {dict(mesh.shape)} of {jax.devices()[0].device_kind}, attention {backend}")
    programs = compile_programs(config, model.config, model.num_tokens, backend)
    # No reference pass is made when the KL coefficient is 0.
    reference = (
        reference_weights(model.params, config.model.dtype, grpo.reference_memory) if grpo.kl_coefficient else None
    )
    state, first = init_state(model.params, programs.optimizer), 0
    # From here on the state holds the weights; what was read is let go.
    shape, source, num_tokens = model.config, model.source, model.num_tokens
    del model
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint)
    if checkpoints.latest is not None:
        state, first = checkpoints.restore(state), checkpoints.latest
        console.print(f"resuming after step {first} of {config.steps}")
    runlog = RunLog(folder, config.tracking, first_step=first + 1 if first else 0, config=config.model_dump())
    rollout_file = RolloutFile(config.save_rollouts, finished=first) if config.save_rollouts else None
    if is_first():
        save_config(config, folder / "config.yaml")
    if jax.default_backend() != "cpu":  # where memory is short
        with working("trying the widest micro-batch"):
            programs.warm_up(state, reference, config.data.max_prompt_tokens + config.sampling.max_new_tokens)
        console.print(MFU_FORMULA)

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

    def halted(reason: str) -> TrainingStopped:
        # Steps after the last one that anything could be scored in have changed nothing, and are done again.
        saved = scored if (checkpoints.latest or 0) <= scored else finished
        checkpoints.save(saved, state)
        if replay is None:
            scorer.close()
        checkpoints.close()
        runlog.close()
        return TrainingStopped(f"{reason}. {folder} is saved after step {saved}; to go on: the same command once more")

    def evaluate(step: int) -> None:
        if replay is not None:  # which needs no sampler
            return
        with working(f"evaluating after step {step}"):
            questions = replace(sampling, n=config.evaluation.samples)
            try:
                metrics, records = evaluate_questions(engine(), heldout, questions, tokenizer, scorer)
            except (JudgeRefused, ExtraRewardError) as error:
                raise halted(str(error)) from error
        runlog.metrics("eval", step, metrics | scorer.metrics())
        runlog.rollouts({"phase": "eval", "step": step, **record} for record in records)
        console.print(
            f"step {step}: held-out accuracy {metrics['accuracy']:.3f} +- {metrics['accuracy_stderr']:.3f}, "
            f"format {metrics['format_rate']:.3f}, reward {metrics['reward']:.2f} ({metrics['responses']} responses)"
        )

    finished, scored, skipped_in_a_row = first, first, 0
    stopping = False  # asked for in any process
    unscorable, watch = UnscorableWindow(config.rewards), ShareWatch()
    with stop_after_step() as stop, Bar("grpo", config.steps, first) as bar:
        if first == 0:
            evaluate(0)
        while finished < config.steps and not stopping:
            laps = _Laps()

            # Sample a group of responses for each prompt of the step and reward them, or take those of the file.
            try:
                rollouts = replay(finished) if replay else collect(engine(), finished, laps.end)
            except (JudgeRefused, ExtraRewardError) as error:
                raise halted(str(error)) from error
            if rollout_file:
                rollout_file.append(finished, rollouts)

            # Compare each reward with its group. NaN: not scorable, or excluded; it leaves baseline and loss.
            rewards_pg = rollouts.shaped_rewards(config)
            trained = np.isfinite(rewards_pg)
            advantages_b = group_advantages(rewards_pg, grpo).reshape(-1)

            # Pack the sampler's own token ids, by length, into the micro-batches of each update.
            rows = pack_rows(
                [prompt for prompt in rollouts.prompts for _ in range(rollouts.group)],
                [completion.tokens for completion in rollouts.completions],
                multiple=row_multiple(),
                sampler_logprobs=[completion.logprobs for completion in rollouts.completions],
                advantages=advantages_b.astype(np.float32),
            )
            rows.mask_bt[~trained.reshape(-1)] = False
            batches = programs.mini_batches(rows)
            laps.end("reward")

            # Log-probs that the loss needs, of the policy that sampled and of the reference.
            batches = programs.with_old(batches, state.params)
            laps.end("old")
            batches = programs.with_reference(batches, reference)
            laps.end("reference")

            # Update.
            results, computed = [], []
            for batch in batches:
                state, result, arrays = programs.update(state, [one.rows.placed() for one in batch])
                results.append(result)
                computed.append(arrays)
            updates = [{name: float(fetch(x)) for name, x in result.items()} for result in results]
            laps.end("update")
            trainer_bt = trainer_logprobs(batches, computed, rows.tokens_bt.shape)
            drift = mismatch(trainer_bt, rows.sampler_logp_bt, rows.mask_bt)
            finished += 1
            scored = finished if trained.any() else scored
            stopping = any_of_all(stop.asked)

            # Log, and now and then evaluate and save.
            parts = [one for batch in batches for one in batch]
            scoring = scorer.metrics() if replay is None else {}
            metrics = (
                rollouts.metrics()
                | scoring
                | {
                    "reward/shaped": float(rewards_pg[trained].mean()) if trained.any() else float("nan"),
                    **_over_updates(updates),
                    **{f"mismatch/{name}": value for name, value in drift.items()},
                    "padding_waste": padding_waste(parts),
                    "shared_prompt_tokens": shared_prompts(parts, rows),
                    "learning_rate": float(programs.schedule(max(0, int(state.updates) - 1))),
                    "tokens_per_second": sum(len(c.tokens) for c in rollouts.completions) / laps.total,
                    **programs.throughput(parts, laps.seconds["seconds/update"]),
                    **laps.seconds,
                }
            )
            runlog.metrics("grpo", finished, metrics)
            if replay is None:
                records = collect.records(rollouts, advantages_b, _ROLLOUTS_KEPT)
                runlog.rollouts({"phase": "grpo", "step": finished, **record} for record in records)
            bar.advance(
                f"reward {metrics['reward/total']:.2f}  accuracy {metrics['accuracy']:.2f}  "
                f"format {metrics['format_rate']:.2f}  kl {metrics['kl']:.4f}  {laps.total:.1f} s"
            )
            if drift["ratio_error"] > RATIO_ERROR_LIMIT:
                log.warning(
                    "step %d: the sampler's probabilities differ from the trainer's by a factor of %.3f in the mean "
                    "(largest difference of log-probs %.2f)", finished, drift["ratio_error"], drift["max"],
                )  # fmt: skip
            for warning in watch({name: x for name, x in metrics.items() if name.startswith("variance_share/")}):
                log.warning("step %d: %s", finished, warning)
            unscorable.add(rollouts.terms)
            for number, update in enumerate(updates):
                skipped_in_a_row = skipped_in_a_row + 1 if update["skipped"] else 0
                if skipped_in_a_row >= grpo.most_skipped:
                    kept = _save_rows(rows, number, len(updates), folder / f"skipped_step_{finished}.npz")
                    raise halted(
                        f"{skipped_in_a_row} updates in a row had a loss, gradient or log-prob that is not finite; "
                        f"weights and moments are those from before them, the last one's rows are in {kept}"
                    )
            if problem := unscorable.problem:
                raise halted(problem)
            if due(finished, config.evaluation.every) and finished < config.steps:
                evaluate(finished)
            save = due(finished, config.checkpoint.every) and scored == finished
            if save or finished == config.steps or stopping:
                checkpoints.save(finished, state)
    if finished == config.steps:
        evaluate(finished)
        save_hf(Qwen3(shape, state.params, source=source, num_tokens=num_tokens), folder / "export")
    if replay is None:
        scorer.close()
    checkpoints.close()
    runlog.close()
    wait_for_all(f"end of {config.output_dir}", config.distributed.timeout)
    return finished == config.steps


class _Laps:
    """Wall seconds of the phases of one step; a phase that comes again adds up."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps = dict.fromkeys(("rollout", "reward", "old", "reference", "update"), 0.0)

    def end(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[name] += now - self._last
        self._last = now

    @property
    def total(self) -> float:
        return self._last - self._start

    @property
    def seconds(self) -> dict[str, float]:
        return {"seconds": self.total} | {f"seconds/{name}": seconds for name, seconds in self._laps.items()}


def _over_updates(updates: list[dict[str, float]]) -> dict[str, float]:
    """Of the step's updates: extremes of extremes, sums of counts, means of the rest; non-finite ones left out."""
    reduce: dict[str, Any] = {"_max": np.max, "_min": np.min, "ount": np.sum, "pped": np.sum}
    found = {}
    for name in updates[0]:
        values = np.array([update[name] for update in updates])
        finite = values[np.isfinite(values)]
        found[name] = float(reduce.get(name[-4:], np.mean)(finite)) if finite.size else float("nan")
    return found


def _save_rows(rows: Rows, number: int, updates: int, file: Path) -> Path:
    """Writes the rows of update `number` of the step, as NumPy arrays."""
    count = len(rows.lengths_b) // updates
    part = rows.take(slice(number * count, (number + 1) * count))
    if is_first():
        np.savez(file, **{name: x for name, x in vars(part).items() if x is not None})
    return file


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


def refuse_another_run(config: Section, saved: Path) -> None:
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


def due(step: int, every: int) -> bool:
    """Whether what happens every so many steps happens after this one; 0 = never."""
    return every > 0 and step % every == 0
