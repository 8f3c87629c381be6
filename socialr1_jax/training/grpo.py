"""The GRPO trainer. One step, read from top to bottom in `_train`: sample and reward, pack, update, log."""

import io
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from socialr1_jax.config.run import RunConfig
from socialr1_jax.data.chat_template import ChatTemplate, read_template
from socialr1_jax.data.examples import Example
from socialr1_jax.grpo.mismatch import mismatch
from socialr1_jax.grpo.packing import MicroBatch, Rows, padding_waste, shared_prompts
from socialr1_jax.grpo.rollouts import PHASES, Rollouts, Source
from socialr1_jax.grpo.step import MFU_FORMULA, GrpoStep, Packed, Updated, make_step, trainer_logprobs
from socialr1_jax.grpo.update import init_state
from socialr1_jax.models.attention import Backend
from socialr1_jax.models.attention_trial import working_attention
from socialr1_jax.models.qwen3 import Qwen3
from socialr1_jax.questions.sources import Questions
from socialr1_jax.rewards import JudgeRefused
from socialr1_jax.rewards.extra import ExtraRewardError
from socialr1_jax.run.console import Bar, console, working
from socialr1_jax.run.epochs import in_steps
from socialr1_jax.run.folder import forget_functions, refuse_another_run, save_own_files
from socialr1_jax.run.provenance import about_run
from socialr1_jax.run.questions import (
    cold_start_questions,
    first_prompt,
    list_bad_rows,
    read_run_questions,
    refuse_long_questions,
    understood,
    warn_of_shared,
    write_shortcuts,
)
from socialr1_jax.run.run import Laps, Run, about_devices, running
from socialr1_jax.run.summary import peak_bytes
from socialr1_jax.runtime.compiles import compile_count
from socialr1_jax.runtime.files import flattened, write_whole
from socialr1_jax.runtime.interrupt import Stop
from socialr1_jax.runtime.ownership import refuse_foreign_folder
from socialr1_jax.runtime.processes import is_first, wait_for_all
from socialr1_jax.runtime.terminal import counted
from socialr1_jax.training.recording import Replay, RolloutFile, refuse_foreign_rollouts
from socialr1_jax.training.sampler import Sampler, make_sampler, make_scorer
from socialr1_jax.training.start import cold_start, random_start
from socialr1_jax.training.watches import Watches
from socialr1_jax.weights.hf import files_dtype, load_hf, local_folder, save_hf
from socialr1_jax.weights.tokenizer_files import load_tokenizer

log = logging.getLogger(__name__)


def train_grpo(config: RunConfig) -> bool:
    """Train `config.model.path` on `config.data.train`; True when the run is complete, False when it was interrupted.

    Everything goes into `config.output_dir`. A run that has a checkpoint there resumes from it, as if it had never
    ended. Ctrl-C or SIGTERM ends it at the next segment of a rollout, while it waits for the judge, or after the
    updates of a step, and saves; the unfinished step is done again.

    Raises ConfigError when the folder holds a run of another configuration, another program is at work in it or the
    mesh does not fit the devices; CheckpointError when no checkpoint there can be read; TrainingStopped when
    `grpo.most_skipped` updates in a row were not finite, when more than `rewards.most_unscorable` of the responses
    could not be scored, when the judge refuses or a file cannot be written; and what `load_hf` and `open_questions`
    raise.
    """
    with running(config) as stop:
        opened = _open(config, stop)
        run, source = opened.run, opened.source
        with closing(source), run:
            try:
                _train(opened)
            except ExtraRewardError:
                if is_first():
                    forget_functions(run.folder)  # a corrected one resumes the run
                raise
            run.finish()
            shape = opened.step.model
            model = Qwen3(shape, run.state.params, source=opened.model_source, num_tokens=opened.num_tokens)
            save_hf(model, run.folder / "export", opened.export_dtype)
            if dropped := source.dropped(run.counts.finished):
                most = f"data.max_prompt_tokens={config.data.max_prompt_tokens}"
                console.print(f"left out: {counted(dropped, 'prompt')}, longer than {most} or bad rows")
    return run.complete


class _Opened(NamedTuple):
    """A run that is ready to train. model_source: of the weights, for the export."""

    config: RunConfig
    run: Run
    source: Source
    step: GrpoStep
    watches: Watches
    model_source: str | None
    num_tokens: int
    export_dtype: str


def _train(opened: _Opened) -> None:
    config, run, source, step = opened.config, opened.run, opened.source, opened.step
    recording = RolloutFile(config.save_rollouts, finished=run.counts.finished) if config.save_rollouts else None
    laps, bar = Laps(), Bar("grpo", config.steps, run.counts.finished)
    with bar:
        for number in run.steps(lambda finished: _evaluate(opened, laps, finished), config.evaluation.every):
            laps.begin(PHASES)

            # Sample a group of responses for each prompt of the step and reward them, or read them from a recording.
            rollouts = source(run.state.params, number, laps.phase)
            if recording:
                recording.append(number, rollouts)

            # Compare each reward with its group, and pack the responses into the micro-batches of each update.
            packed = step.pack(rollouts)
            laps.end("reward")

            # Compute the log-probs that the loss needs, then update.
            updates = step.log_probs(run.state.params, packed.updates, laps.phase)
            run.stop.check()  # update() donates the old state, so the step can no longer be abandoned
            run.state, updated = step.update(run.state, updates)
            laps.end("update")
            run.counts.finished += 1

            # Log, and stop where the run cannot go on.
            metrics = _metrics(opened, rollouts, packed, updates, updated, laps)
            _log(opened, rollouts, packed, metrics, bar)
            unscorable = opened.watches.problem(rollouts)
            problem = _skipped(opened, packed.rows, updated.metrics) or unscorable
            if np.isfinite(packed.rewards_pg).any():
                run.keep()
            if problem:
                run.reset("unscorable", [])  # a resumed run starts with a clean window
                raise run.halted(problem)


# -------------------------------------------------------------------------------------------------------- its parts


def _open(config: RunConfig, stop: Stop) -> _Opened:
    folder, questions = Path(config.output_dir), None
    refuse_foreign_folder(folder / "export", "config.json")
    if not config.replay_rollouts:  # before the earlier run is compared: their number says how many steps epochs are
        questions = read_run_questions(config)
        config, about_steps = in_steps(config, len(questions[0]), config.grpo.prompts_per_step)
        for line in about_steps:
            console.print(line)
    refuse_another_run(config, folder / "config.yaml")
    if config.save_rollouts:
        refuse_foreign_rollouts(config)
    # Barrier: every process must look for an earlier run before any process writes to the folder.
    wait_for_all(f"start of {config.output_dir}", config.distributed.timeout)
    backend = working_attention(config.model.attention, config.model.dtype)
    source: Source
    if questions:
        model, sampler, template = _sampled(config, *questions, backend, stop)
        source, watches, prompts = sampler, Watches(config, template), {"prompts": sampler}
    else:
        model, source = _replayed(config)
        watches, prompts = Watches(config, None), {}
    mesh = jax.sharding.get_mesh()
    if jax.default_backend() != "cpu" or mesh.size > 1:
        console.print(about_devices(mesh, backend))
    step = make_step(config, model.config, model.num_tokens, model.params, backend)
    state = init_state(model.params, step.programs.optimizer)
    about, of_export = about_run(config, model.config, model.source), (model.source, model.num_tokens)
    export_dtype = files_dtype(model.source or "") if not config.model.random else "float32"
    del model  # `state` owns the weights now
    run = Run(config, state, {**watches.parts, **prompts}, about, stop, halting=(JudgeRefused, ExtraRewardError))
    del state  # which a checkpoint may have replaced
    if is_first():
        save_own_files(config)
    if jax.default_backend() != "cpu":  # where memory is short
        with working("trying the widest micro-batch"):
            step.warm_up(run.state, config.data.max_prompt_tokens + config.sampling.max_new_tokens)
        console.print(MFU_FORMULA)
    return _Opened(config, run, source, step, watches, *of_export, config.model.export_dtype or export_dtype)


def _sampled(
    config: RunConfig, questions: Questions, heldout: Mapping[str, Questions], backend: Backend, stop: Stop
) -> tuple[Qwen3, Sampler, ChatTemplate]:
    """Return the model of a run that samples, after its cold start; its sampler and its chat template."""
    scorer = make_scorer(config, backend, stop)  # first: a missing key fails before the weights are loaded
    list_bad_rows(config, questions, heldout)
    warn_of_shared(questions, heldout)
    taught = cold_start_questions(config, questions) if config.cold_start else questions
    write_shortcuts(questions, Path(config.output_dir))
    if not config.model.random:
        refuse_long_questions(config, questions, heldout, base := local_folder(config.model.path))
        tokenizer = load_tokenizer(base)
    model = _loaded(config, questions)
    if config.model.random:
        refuse_long_questions(config, questions, heldout, Path(model.source or ""))
        tokenizer = load_tokenizer(model.source)
    for line in (*understood(questions, heldout, config.evaluation.questions), *first_prompt(questions, tokenizer)):
        console.print(line)
    if config.cold_start:
        model = cold_start(config, model, tokenizer, taught)
    sampler = make_sampler(config, model, tokenizer, scorer, backend, questions, heldout, stop.check)
    return model, sampler, read_template(tokenizer)


def _replayed(config: RunConfig) -> tuple[Qwen3, Replay]:
    """Return the model of a run that reads its rollouts from a file, and what reads them."""
    replay = Replay(config)
    model = _loaded(config, ())
    with working(f"checking {config.replay_rollouts}"):
        replay.check(model.num_tokens)
    return model, replay


def _loaded(config: RunConfig, questions: Sequence[Example]) -> Qwen3:
    """Return the weights of a run; `questions` make the tokenizer of random ones."""
    name, mesh = config.model.path, jax.sharding.get_mesh()
    with working(f"loading {name or config.model.random}"):
        if config.model.random:
            model = random_start(config, mesh, questions)
        else:
            model = load_hf(name, mesh, ignore_fields=config.model.ignore_fields)
    size = sum(x.size for x in jax.tree.leaves(model.params))
    kind = f"random weights ({config.model.random})" if config.model.random else name
    console.print(f"model: {kind}, {size / 1e6:,.1f} million parameters, vocabulary {model.num_tokens:,}")
    return model


def _evaluate(opened: _Opened, laps: Laps, finished: int) -> float | None:
    """Evaluate and log; return the metric that checkpoints are compared by, None where there is none."""
    run = opened.run
    with laps.left_out():
        evaluation = opened.source.evaluate(run.state.params, finished)
    if evaluation is None:
        return None
    metrics, records = evaluation
    run.counts.evaluated = finished
    run.log.metrics("eval", finished, metrics)
    run.log.rollouts(records)
    best = flattened(metrics).get(opened.config.checkpoint.best)
    return None if isinstance(best, str) else best  # best_rule is a name


def _metrics(
    opened: _Opened, rollouts: Rollouts, packed: Packed, updates: list[list[MicroBatch]], updated: Updated, laps: Laps
) -> dict[str, Any]:
    """Return the metrics of a step as metrics.jsonl has them; docs/metrics.md explains each."""
    run, step, rows = opened.run, opened.step, packed.rows
    rewards_pg, parts = packed.rewards_pg, [one for batch in updates for one in batch]
    trained = np.isfinite(rewards_pg)
    drift = mismatch(
        trainer_logprobs(updates, updated.arrays, rows.tokens_bt.shape), rows.sampler_logp_bt, rows.mask_bt
    )
    seconds = laps.seconds
    return {
        **rollouts.metrics(),
        **opened.source.metrics(run.counts.finished),
        **opened.watches.truth(rollouts),
        "reward/shaped": float(rewards_pg[trained].mean()) if trained.any() else float("nan"),
        **_over_updates(updated.metrics),
        **{f"mismatch/{name}": value for name, value in drift.items()},
        "padding_waste": padding_waste(parts),
        "shared_prompt_tokens": shared_prompts(parts, rows),
        "learning_rate": float(step.programs.schedule(max(0, int(run.state.updates) - 1))),
        "tokens_per_second": sum(len(c.tokens) for c in rollouts.completions) / laps.total,
        **step.throughput(parts, seconds["seconds/update"]),
        **seconds,
        "memory_peak_bytes": peak_bytes(),
        "compiled_programs": compile_count(),
    }


def _log(opened: _Opened, rollouts: Rollouts, packed: Packed, metrics: Mapping[str, Any], bar: Bar) -> None:
    """Write the metrics and responses of a step, move the bar, and log the warnings."""
    run, number = opened.run, opened.run.counts.finished
    run.log.metrics("grpo", number, metrics)
    if records := list(opened.source.records(rollouts, packed.advantages_b)):
        run.log.rollouts({"phase": "grpo", "step": number, **record} for record in records)
    bar.advance(
        f"reward {metrics['reward/total']:.2f}  accuracy {metrics['accuracy']:.2f}  "
        f"format {metrics['format_rate']:.2f}  tokens {metrics['response_tokens']:.0f}  "
        f"kl {metrics['kl']:.4f}  {metrics['seconds']:.1f} s"
    )
    for warning in opened.watches.warnings(rollouts, metrics):
        log.warning("step %d: %s", number, warning)


# How the metrics of a step's updates become one; the mean of all others. Non-finite ones are left out.
_REDUCTIONS: dict[str, Any] = {"ratio_max": np.max, "ratio_min": np.min, "nonfinite_count": np.sum, "skipped": np.sum}


def _over_updates(updates: list[dict[str, float]]) -> dict[str, float]:
    found = {}
    for name in updates[0]:
        values = np.array([update[name] for update in updates])
        finite = values[np.isfinite(values)]
        found[name] = float(_REDUCTIONS.get(name, np.mean)(finite)) if finite.size else float("nan")
    return found


def _skipped(opened: _Opened, rows: Rows, updates: list[dict[str, float]]) -> str:
    """Count the updates that were skipped in a row; return why the run must stop when these are too many, else ""."""
    run, counts = opened.run, opened.run.counts
    for number, update in enumerate(updates):
        counts.skipped_in_a_row = counts.skipped_in_a_row + 1 if update["skipped"] else 0
        if counts.skipped_in_a_row >= opened.config.grpo.most_skipped:
            file = _save_rows(rows, number, len(updates), run.folder / f"skipped_step_{counts.finished}.npz")
            times, counts.skipped_in_a_row = counts.skipped_in_a_row, 0
            return (
                f"{times} updates in a row had a loss, gradient or log-prob that is not finite; weights and moments "
                f"are those from before them, the last one's rows are in {file}"
            )
    return ""


def _save_rows(rows: Rows, number: int, updates: int, file: Path) -> Path:
    """Write the rows of update `number` of the step, as NumPy arrays."""
    count = len(rows.lengths_b) // updates
    part = rows.take(slice(number * count, (number + 1) * count))
    if is_first():
        np.savez(content := io.BytesIO(), **{name: x for name, x in vars(part).items() if x is not None})
        write_whole(file, content.getvalue())
    return file
