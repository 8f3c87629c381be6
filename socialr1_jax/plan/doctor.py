"""Check whether a run can start here. Each check imports its modules itself, so a broken package fails one check."""

from __future__ import annotations

import math
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib import import_module, metadata
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from socialr1_jax.config.loading import load_config
from socialr1_jax.config.run import DoctorConfig, RunConfig
from socialr1_jax.run.console import collected_warnings, print_finding
from socialr1_jax.runtime.terminal import counted, gib, keep_streams, print_line, printable
from socialr1_jax.weights.hub import cached_folder

LONGEST_CHECK = 600.0  # seconds between two lines, including the compilation of the tiny step
# Random text earns no reward, so an entropy bonus moves the weights. The evaluation has the step's size, to reuse its
# programs.
_TINY_RUN = """steps=1 data.train=stories:16 data.holdout=4 data.max_prompt_tokens=512 sampling.group_size=2
sampling.max_new_tokens=24 grpo.prompts_per_step=4 grpo.mini_batch_prompts=4 grpo.entropy_coefficient=0.01
optimizer.learning_rate=1e-3 evaluation.every=0 evaluation.questions=4 evaluation.samples=2 tracking.tensorboard=false
model.random=nano grpo.most_skipped=1"""

Findings = Iterator[tuple[str, str, str]]  # status (ok, warning, problem or skipped), finding, fix


class CheckLine(NamedTuple):
    """A finding of a check. `fix` is "" if there is nothing to fix or `found` already says how."""

    status: str
    name: str
    found: str
    fix: str


class NotChecked(Exception):
    """Raised by a check that does not apply here; the message says why."""


def _packages(config: DoctorConfig) -> Findings:
    from packaging.requirements import Requirement

    installed = {dist.name.lower().replace("_", "-"): dist.version for dist in metadata.distributions()}
    for needed in map(Requirement, metadata.requires("socialr1_jax") or ()):
        if needed.marker is None or (needed.name == "wandb" and config.tracking.wandb):
            version = installed.get(needed.name.lower(), "")
            if not version or not needed.specifier.contains(version, prereleases=True):
                found = f"{version}, but {needed.specifier} is needed" if version else "is missing"
                yield "problem", f"{needed.name} {found}", f"pip install -U '{needed.name}{needed.specifier}'"
    for cuda in ("cuda12", "cuda13"):  # JAX silently ignores a plugin whose version does not match
        if (version := installed.get(f"jax-{cuda}-plugin", "")) and version != installed.get("jaxlib"):
            found = f"jax-{cuda}-plugin {version} with jaxlib {installed.get('jaxlib')}"
            yield "problem", found, f"pip install -U 'jax[{cuda}]=={installed.get('jax')}'"
    yield "ok", ", ".join(f"{name} {installed.get(name)}" for name in ("jax", "jaxlib", "flax", "transformers")), ""


def _devices(config: DoctorConfig) -> Findings:
    import jax

    with collected_warnings("jax") as warned:  # about an accelerator that JAX cannot use
        devices = jax.devices()
    kind = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    if warned and devices[0].platform == "cpu":
        raise RuntimeError(f"JAX computes on {kind}: {warned[0]}")
    from socialr1_jax.models.attention_trial import working_attention

    backend = working_attention(config.model.attention, config.model.dtype)  # warns if cuDNN does not compute here
    yield "ok", f"{kind}, attention {backend} in {config.model.dtype}", ""
    if devices[0].platform == "gpu" and config.model.dtype == "float32":
        yield "warning", "float32 on a GPU", "model.dtype=bfloat16 with model.attention=auto computes with cuDNN"


def _output(config: DoctorConfig) -> Findings:
    folder = Path(config.output_dir).absolute()
    above = next(path for path in (folder, *folder.parents) if path.exists())
    tempfile.TemporaryFile(dir=above).close()
    if folder == above:
        _need_jax()
        from socialr1_jax.run.epochs import in_steps
        from socialr1_jax.run.folder import own_folder, refuse_another_run
        from socialr1_jax.run.questions import read_run_questions
        from socialr1_jax.runtime.ownership import refuse_foreign_folder

        if config.epochs and config.data.train:
            config, _ = in_steps(config, len(read_run_questions(config)[0]), config.grpo.prompts_per_step)
        with own_folder(folder):
            refuse_foreign_folder(folder / "export", "config.json")
            refuse_another_run(config.model_copy(update={"no_step": False}), folder / "config.yaml")
    yield "ok", f"{folder} can be written to", ""


def _models(config: DoctorConfig) -> Findings:
    """Check the run's models by opening them, which reads the headers of all their weight files."""
    from socialr1_jax.weights.hf_folder import open_hf

    model, uses, judge = config.model, config.rewards.uses, config.rewards.structure
    paths = {
        "model.path": "" if model.random else model.path,
        "rewards.content.model": config.rewards.content.model if uses.content else "",
        "rewards.structure.model": judge.model if uses.structure and judge.judge == "local" else "",
    }
    if not any(paths.values()):
        raise NotChecked(f"random weights ({model.random})" if model.random else "model.path is not given")
    for key, path in paths.items():
        fix = f"set {key} to a whole Qwen3 folder or hub id; hf download {path} (with HF_TOKEN for a gated model)"
        try:
            if path and (folder := cached_folder(path)):
                ignored = model.ignore_fields if key == "model.path" else ()
                open_hf(folder, dtype="float32", scalar_head=key == "rewards.content.model", ignore_fields=ignored)
                yield "ok", f"{key}: all tensors are in {folder}", ""
            elif path:
                yield "warning", f"{key}: {path} is not on this machine yet: the run's start downloads it", fix
        except (ValueError, OSError) as error:
            yield "problem", f"{key}: {printable(str(error), 500)}", fix


def _plan(config: DoctorConfig) -> Findings:
    """Check that the mesh fits the devices, and training's resident memory the free memory of each."""
    _need_jax()
    from socialr1_jax.plan.advice import advice
    from socialr1_jax.plan.plan import plan_here
    from socialr1_jax.plan.shapes import UnknownSizesError
    from socialr1_jax.runtime.processes import in_cluster

    if config.distributed.processes > 1 or in_cluster(os.environ):
        raise NotChecked("this is one of several processes; socialr1 plan compiles the run for all of them")
    try:
        run, plan = plan_here(config)
    except UnknownSizesError as error:
        raise NotChecked(str(error)) from None
    if (resident := sum(plan.resident.values())) > plan.allowed:
        yield "problem", next(advice(run, plan, ["update"])), "socialr1 plan checks other devices"
    else:
        parts = ", ".join(f"{name} {gib(size)}" for name, size in plan.resident.items())
        yield "ok", f"training keeps {gib(resident)} of {gib(plan.allowed)} GiB a device: {parts}", ""


def _tokenizer(config: DoctorConfig) -> Findings:
    path = config.model.path
    folder = cached_folder(path) if path else None
    if folder is None or not folder.is_dir():
        raise NotChecked(f"{path} is not on this machine" if path else "it is built from the questions, or not given")
    from socialr1_jax.data.chat_template import thoughts_in_prompt
    from socialr1_jax.plan.shapes import shape_of
    from socialr1_jax.sampling.text import stop_token_ids
    from socialr1_jax.weights.tokenizer_files import count_tokens, load_tokenizer

    tokenizer = load_tokenizer(folder)
    shape = shape_of(path, config.model.random, config.model.ignore_fields)
    if not config.model.random:  # a random model is built with a matching vocabulary
        count_tokens(folder, shape.vocab_size)
    turns = [{"role": "user", "content": "Where will Ann look?"}, {"role": "assistant", "content": "Ann."}]
    thoughts = thoughts_in_prompt(tokenizer)
    if thoughts == "closes":
        yield "problem", "the prompt closes empty thoughts: no response is well formed", "use another chat template"
    if any(len(tokenizer.encode(tag, add_special_tokens=False)) != 1 for tag in ("<think>", "</think>")):
        yield "warning", "<think> is not one token, so the model has to learn to spell it", "use a Qwen3 tokenizer"
    stops = stop_token_ids(cast(Any, SimpleNamespace(config=shape, source=str(folder))), tokenizer)
    end = tokenizer.apply_chat_template(turns, tokenize=False).rpartition("Ann.")[2]
    ids = tokenizer.encode(end, add_special_tokens=False)[:1]
    if not set(ids) & set(stops):
        found = f"a turn ends with {end.strip()!r}, but the stop tokens are {tokenizer.convert_ids_to_tokens(stops)}"
        yield "problem", found, f"name the token in {folder}/generation_config.json: eos_token_id {ids}"
    yield "ok", f"{type(tokenizer).__name__} of {len(tokenizer):,} tokens, prompt {thoughts} thoughts", ""


def _data(config: DoctorConfig) -> Findings:
    from socialr1_jax.data.bad_rows import summary
    from socialr1_jax.questions.audit import audit_examples, shortcut_sample, strong_shortcuts
    from socialr1_jax.run.questions import (
        check_positions,
        cold_start_questions,
        read_run_questions,
        understood,
        warn_of_few,
        warn_of_shared,
    )

    if not config.data.train:
        raise NotChecked("data.train is not given")
    questions, sets = read_run_questions(config)
    warn_of_shared(questions, sets)
    warn_of_few(config, questions)
    if config.cold_start:
        cold_start_questions(config, questions)
    if rules := strong_shortcuts(audit_examples(shortcut_sample(questions), learned=False)):
        fix = "train on questions that such rules do not answer; socialr1 audit lists all rules"
        yield "warning", "; ".join(rules[:3]), fix
    if bad := {row for part in (questions, *sets.values()) for row in part.bad_rows}:
        fix = "correct these rows, or how they are read: data.columns, data.first_label"
        yield "warning", f"{counted(len(bad), 'bad row')} dropped ({summary(bad)})", fix
    yield "ok", "; ".join(understood(questions, sets, config.evaluation.questions)), ""
    if unchecked := check_positions(config, questions, sets):
        yield "skipped", f"room for responses not checked: {unchecked}", ""


def _rewards(config: DoctorConfig) -> Findings:
    from socialr1_jax.rewards.extra import load_extras
    from socialr1_jax.rewards.judge_probe import judge_fault

    load_extras(config.rewards)
    structure = config.rewards.structure
    if not config.rewards.uses.structure or structure.judge != "endpoint":
        raise NotChecked("this run uses no judge on a server")
    once = {"retries": 0, "call_timeout": min(20.0, structure.call_timeout)}
    if fault := judge_fault(structure.model_copy(update=once)):
        raise ValueError(fault)
    yield "ok", f"{structure.model} at {structure.base_url} grades responses", ""


def _step(config: DoctorConfig) -> Findings:
    """Run one GRPO step of a tiny model, from sampling to export, with the run's dtype, kernels and optimizer."""
    if config.no_step:
        raise NotChecked("--no-step")
    devices = len(_need_jax())
    from socialr1_jax.training.grpo import train_grpo

    fsdp = math.gcd(devices, 8)  # the tiny model can be split by 8 at most
    computed = [f"optimizer.name={config.optimizer.name}", f"mesh.replica={devices // fsdp}"]
    computed += [f"model.{name}={getattr(config.model, name)}" for name in ("dtype", "attention", "remat")]
    with tempfile.TemporaryDirectory() as name, redirect_stdout(None), redirect_stderr(None):
        train_grpo(load_config(RunConfig, None, [*_TINY_RUN.split(), *computed, f"output_dir={name}/run"]))
    yield "ok", f"a GRPO step of a tiny model in {config.model.dtype}, from sampling to export", ""


CHECKS: Mapping[str, tuple[Callable[[DoctorConfig], Findings], str]] = {  # with the fix if the check raises
    "packages": (_packages, "in the repository: pip install -U -e ."),
    "devices": (_devices, "pip install -e '.[cuda12]', or cuda13 (driver 580 or newer) or tpu; unset JAX_PLATFORMS"),
    "output_dir": (_output, "set another output_dir, or correct what this names"),
    "model": (_models, "set model.path to a Qwen3 folder or hub id, or model.random to a shape"),
    "plan": (_plan, "correct model.random, or mesh.replica, mesh.fsdp (0 = the remaining devices) and mesh.tensor"),
    "tokenizer": (_tokenizer, "put tokenizer, template and generation_config.json into the model's folder"),
    "data": (_data, "correct the file, or set data.train, data.columns and data.where so that its rows are questions"),
    "rewards": (_rewards, "correct rewards.extra or rewards.structure; rewards.structure.judge=rules needs no server"),
    "tiny step": (_step, "the installation is broken, not the run; try model.attention=xla or model.dtype=float32"),
}


def examine(config: DoctorConfig, names: Sequence[str] = tuple(CHECKS)) -> Iterator[CheckLine]:
    """Yield the lines of the checks, with API keys removed. Never raises."""
    variables = "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", config.rewards.structure.api_key_env
    secrets = [os.environ.get(name, "").strip() for name in variables]
    for name in names:
        for status, *texts in _findings(config, name):
            for secret in (secret for secret in secrets if len(secret) >= 8):  # not placeholders ("none", "EMPTY")
                texts = [text.replace(secret, "[key]") for text in texts]
            yield CheckLine(status, name, *texts)


def _findings(config: DoctorConfig, name: str) -> Findings:
    check, fix = CHECKS[name]
    with collected_warnings("unused" if check is _step else "socialr1_jax") as warned:  # the run shows its warnings
        try:
            yield from check(config)
        except NotChecked as reason:
            yield "skipped", f"not checked: {reason}", ""
        except Exception as error:  # a check must not end the others
            kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
            yield "problem", printable(f"{kind}{error}", 500), fix
    yield from (("warning", text, "") for text in warned)


def examine_apart(config: DoctorConfig, names: Sequence[str] = tuple(CHECKS)) -> Iterator[CheckLine]:
    """Yield the lines of `examine` from a subprocess, so that a crash or hang is reported as a failed check."""
    ours, theirs = (spawn := multiprocessing.get_context("spawn")).Pipe(duplex=False)
    process = spawn.Process(target=_send, args=(config, names, theirs), daemon=True)
    process.start()
    theirs.close()  # so that recv() raises EOFError when the process ends
    left, ended = list(names), f"no result after {LONGEST_CHECK:g} s: the check hangs"
    try:
        while left and ours.poll(LONGEST_CHECK):
            if line := ours.recv():
                yield line
            else:
                left.pop(0)
    except EOFError:
        process.join()
        ended = f"the process ended in this check with status {process.exitcode} (below 0: a signal)"
    finally:
        process.kill()
    if left:
        yield CheckLine("problem", left[0], ended, CHECKS[left[0]][1])
        yield from (CheckLine("skipped", name, "not checked: the checks stopped before it", "") for name in left[1:])


def _send(config: DoctorConfig, names: Sequence[str], pipe: Connection) -> None:
    keep_streams()
    with suppress(KeyboardInterrupt, BrokenPipeError):
        for name in names:
            for line in examine(config, [name]):
                pipe.send(line)
            pipe.send(None)  # the check ended


def _need_jax() -> Sequence[Any]:
    try:
        return import_module("jax").devices()
    except Exception:
        raise NotChecked("JAX does not start here") from None


def print_findings(config: DoctorConfig) -> int:
    """Print the lines of all checks, and return exit status 1 if there is a problem."""
    counts = dict.fromkeys(("ok", "problem", "warning", "skipped"), 0)
    for line in examine_apart(config):
        print_finding(*line)
        counts[line.status] += 1
    problems, warnings = (counted(counts[status], status) for status in ("problem", "warning"))
    print_line(f"{problems}, {warnings}, {counts['skipped']} not checked")
    return 1 if counts["problem"] else 0
