"""One GRPO update and one sampling on each mesh that is asked for, and rollouts on other meshes, into .npz files.

python mesh_worker.py FOLDER OUT MESH... [--rollouts "MESH by N"...] [--processes N --process I --port P]

A MESH is REPLICAxFSDPxTENSOR; N devices share a row of its rollout.

Run by test_mesh.py in processes of their own: the number of CPU devices is fixed when JAX starts.
"""

import argparse
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import decode_by_length, interpret_segment_kernel

from socialr1_jax import SamplingParams, load_hf, make_mesh
from socialr1_jax.config.run import RunConfig
from socialr1_jax.grpo.logprobs import row_logprobs
from socialr1_jax.grpo.packing import pack_rows
from socialr1_jax.grpo.step import GrpoStep, compile_programs, trainer_logprobs
from socialr1_jax.grpo.update import init_state, sum_replicas, total
from socialr1_jax.models.qwen3 import init_params, lent, weight_specs
from socialr1_jax.models.shapes import SHAPES
from socialr1_jax.plan.hlo import arrays, computations, first_group
from socialr1_jax.plan.work import decode_lengths
from socialr1_jax.runtime.mesh import fetch, place, row_shards, with_tensor
from socialr1_jax.sampling import Engine, batch
from socialr1_jax.sampling.engine import joined
from socialr1_jax.sampling.rollout_weights import reshard

CONFIG = RunConfig.model_validate(
    {
        "steps": 1,
        "model": {"path": "given"},
        "data": {"train": "given"},
        "sampling": {"group_size": 4},
        "grpo": {"prompts_per_step": 8, "mini_batch_prompts": 4, "micro_batch_tokens": 64},
        # epsilon above the rounding of gradients: else Adam turns noise around 0 into steps of the full size
        "optimizer": {"learning_rate": 1e-2, "epsilon": 1e-3},
    }
)


def rows_of(vocab_size: int):
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, vocab_size, rng.integers(7, 12)).tolist() for _ in range(32)]
    responses = [rng.integers(0, vocab_size, rng.integers(10, 20)).tolist() for _ in range(32)]
    return pack_rows(prompts, responses, multiple=16, advantages=rng.normal(size=32).astype(np.float32))


@cache
def random_weights(config, seed: int) -> Any:
    """Return new weights on the host; their programs are compiled for one mesh only."""
    return jax.tree.map(np.asarray, init_params(config, jax.random.key(seed)))


def one_update(folder: str, mesh, attention="xla", *, exchanges=False) -> dict[str, np.ndarray]:
    """The weights after two updates from one rollout, and the log-probs before them.

    With `exchanges`, also the number of arrays that replicas exchange.
    """
    with jax.set_mesh(mesh):
        model = load_hf(folder, mesh)
        programs = compile_programs(CONFIG, model.config, model.num_tokens, attention)
        step = GrpoStep(
            config=CONFIG, model=model.config, backend="xla", programs=programs, reference=model.params, multiple=16
        )
        state = init_state(model.params, programs.optimizer)
        rows, computed = rows_of(model.config.vocab_size), []
        batches = step.log_probs(state.params, step.mini_batches(rows))
        first = [one.rows.placed() for one in batches[0]]
        # The gradient of weights as training starts with: the folder's make logits whose rounding is a part in 1e6.
        fresh = jax.tree.map(place, random_weights(model.config, 0), weight_specs(model.config))
        sums = programs.update.begin(fresh, first[0])
        for part in first:
            sums, _ = programs.update.accumulate(fresh, sums, part)
        counts = between_replicas(programs.update, fresh, sums, first[0]) if exchanges else {}
        sums = total(sums)
        gradient = {f"gradient{jax.tree_util.keystr(path)}": x for path, x in jax.tree.leaves_with_path(sums.gradient)}
        for batch in batches:
            state, metrics, arrays = programs.update(state, [one.rows.placed() for one in batch])
            computed.append(arrays)
        arrays = gradient | {
            f"params{jax.tree_util.keystr(path)}": x for path, x in jax.tree.leaves_with_path(state.params)
        }
        arrays |= {f"metrics/{name}": x for name, x in metrics.items()}
        logp_bt = trainer_logprobs(batches, computed, rows.tokens_bt.shape)
        return counts | {"logp": logp_bt, **{name: fetch(x) for name, x in arrays.items()}}


def table_gradients(mesh) -> dict[str, np.ndarray]:
    """The gradients of embedding and output matrix in bfloat16 of a model without layers, whose rounding they share."""
    shape = replace(SHAPES["nano"], num_hidden_layers=0, tie_word_embeddings=False)
    rng = np.random.default_rng(7)
    tokens_bt, advantages_bt = rng.zipf(1.3, (16, 64)) % shape.vocab_size, rng.normal(size=(16, 64))

    def loss(params, tokens_bt, advantages_bt):
        lengths_b = jnp.full(len(tokens_bt), tokens_bt.shape[1])
        logp_bt, _ = row_logprobs(
            params, shape, tokens_bt, lengths_b, 1.0, num_tokens=shape.vocab_size, dtype="bfloat16"
        )
        return jnp.sum(advantages_bt * logp_bt)

    with jax.set_mesh(mesh):
        params = jax.tree.map(place, random_weights(shape, 1), weight_specs(shape))
        arrays = (place(x.astype(kind)) for x, kind in ((tokens_bt, np.int32), (advantages_bt, np.float32)))
        gradient = jax.jit(jax.grad(loss))(params, *arrays)
        return {f"bfloat16/{name}": fetch(gradient[name]) for name in ("embed_tokens", "lm_head")}


def layers_of(model, number: int) -> dict[str, Any]:
    """The engine's arguments for the first layers of the model: fewer layers compile sooner and share the layouts."""
    layers = jax.jit(lambda layers: jax.tree.map(lambda weight: weight[:number], layers))(model.params["layers"])
    config = replace(model.config, num_hidden_layers=number)
    return {"params": model.params | {"layers": layers}, "config": config, "num_tokens": model.num_tokens}


def prompts_of(vocab_size: int) -> tuple[list[list[int]], SamplingParams]:
    rng = np.random.default_rng(5)
    prompts = [rng.integers(0, vocab_size, size).tolist() for size in rng.integers(1, 40, 24)]
    return prompts, SamplingParams(n=2, max_new_tokens=80, stop_token_ids=tuple(range(4)), seed=1)


def moved_rows(folder: str, mesh, by_length: bool) -> dict[str, np.ndarray]:
    """Sample with 4 rows a device. `by_length`: with the kernel for GPUs.

    Freed rows are refilled. There is room for every row's first 64 slots: half of the rows wait in host memory.
    """
    model = load_hf(folder, mesh)
    moves: list[str] = []
    with jax.set_mesh(mesh), pytest.MonkeyPatch.context() as patch:
        if by_length:
            decode_by_length(patch.setattr)
        for name in ("admit", "to_host", "from_host"):
            move = getattr(batch, name)
            patch.setattr(batch, name, lambda *a, name=name, move=move, **k: moves.append(name) or move(*a, **k))
        plan, engine = Engine.plan, Engine(**layers_of(model, 1), max_rows=4)
        patch.setattr(Engine, "plan", lambda *args: replace(found := plan(*args), tokens=64 * found.rows))
        samples = [sample for group in engine.sample(*prompts_of(model.config.vocab_size)) for sample in group]
    return {
        "moves": np.array([moves.count(name) for name in ("admit", "to_host", "from_host")]),
        "moved": np.concatenate([[*sample.tokens, -1] for sample in samples]),
        "moved/logprobs": np.concatenate([sample.logprobs for sample in samples]),
    }


def sampling_at_once(folder: str, mesh) -> dict[str, np.ndarray]:
    """Sample for the same prompts with all rows at once."""
    model = load_hf(folder, mesh)
    prompts, sampling = prompts_of(model.config.vocab_size)
    with jax.set_mesh(mesh):
        engine = Engine(**layers_of(model, 1), segment_tokens=80)
        samples = [sample for group in engine.sample(prompts, sampling) for sample in group]
    return {
        "tokens": np.concatenate([[*sample.tokens, -1] for sample in samples]),
        "logprobs": np.concatenate([sample.logprobs for sample in samples]),
    }


def eight_bits(folder: str, mesh) -> dict[str, np.ndarray]:
    """Sample from weights of 8 bits."""
    model = load_hf(folder, mesh)
    prompts, _ = prompts_of(model.config.vocab_size)
    with jax.set_mesh(mesh):
        engine = Engine(**layers_of(model, 2), weights="int8")
        samples = engine.sample(prompts[:8], SamplingParams(max_new_tokens=16, seed=1))
    return {"int8": np.array([sample.tokens for (sample,) in samples])}


HEADS = replace(
    SHAPES["nano"],
    vocab_size=160,
    intermediate_size=96,
    num_hidden_layers=1,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=8,
    initializer_range=0.1,
)


def collectives(lowered) -> np.ndarray:
    """The numbers of all-reduces, all-to-alls, all-gathers and of all collectives in the compiled program."""
    names = re.findall(r" (all-[a-z-]+?|reduce-scatter|collective-permute)(?:-start)?\(", lowered.compile().as_text())
    return np.array([names.count(name) for name in ("all-reduce", "all-to-all", "all-gather")] + [len(names)])


def rollout_on(mesh, tensor: int) -> dict[str, np.ndarray]:
    """Samples of weights on `mesh` whose rows `tensor` devices share, and the collectives of reshard and decoding."""
    counts = {}
    with jax.set_mesh(mesh):
        params = jax.tree.map(place, random_weights(HEADS, 1), weight_specs(HEADS))
    rng = np.random.default_rng(7)
    prompts = [rng.integers(0, 160, size).tolist() for size in rng.integers(1, 40, 8)]
    sampling = SamplingParams(n=2, max_new_tokens=40, stop_token_ids=tuple(range(4)), raw_logprobs=True, seed=1)
    rollout_mesh = with_tensor(mesh, tensor)
    if rollout_mesh != mesh:
        params = lent(params, HEADS, rollout_mesh)
    with jax.set_mesh(rollout_mesh):
        counts["reshard"] = collectives(reshard.lower(params, HEADS, "float32", "dtype", True))
        rollout = Engine(params=params, config=HEADS, num_tokens=160, segment_tokens=16).rollout(prompts, sampling)
        segment, parts = rollout.run_segment, {}

        def counted_segment(*arguments):
            if "decode" not in counts:
                counts["decode"] = collectives(segment.func.lower(*arguments, **segment.keywords))
            return segment(*arguments)

        rollout.run_segment = counted_segment
        for part in (part for each in rollout.steps() for part in each):
            parts.setdefault(part.row, []).append(part)
        samples = [joined(parts[row]) for row in sorted(parts)]
        lengths_pg = np.array([len(sample.tokens) for sample in samples]).reshape(-1, 2)
        sizes = {"shards": row_shards(), "platform": "cpu", "segment": 16, "limit": 40}
        planned = decode_lengths(lengths_pg, rollout.plan, 1, **sizes)
    return counts | {
        "wall_steps": np.array([rollout.wall_steps, lengths_pg.max(), planned.steps]),
        "tokens": np.concatenate([[*sample.tokens, -1] for sample in samples]),
        "logprobs": np.concatenate([[*sample.logprobs, *sample.raw_logprobs] for sample in samples]),
    }


def between_replicas(update, params, sums, rows) -> dict[str, np.ndarray]:
    """Count the arrays that a micro-batch, and the sum, exchange between two replicas of four devices, and all arrays.

    The sum exchanges those of the gradient, the loss, its denominator and the metrics.
    """

    def exchanged(lowered) -> int:
        bodies, _ = computations(lowered.compile().as_text())
        sent = 0
        for line in (line for body in bodies.values() for line in body):
            if re.fullmatch(r"(all-.*|reduce-scatter|collective-permute)(?<!-done)", line.opcode):
                pairs = re.findall(r"\{(\d+),(\d+)\}", line.rest) if "source_target_pairs" in line.rest else []
                groups = [[int(device) for device in pair] for pair in pairs] or [first_group(line.rest, 8)]
                sent += any(len({device // 4 for device in group}) > 1 for group in groups) * len(arrays(line.type))
        return sent

    counts = exchanged(update.accumulate.lower(params, sums, rows)), exchanged(sum_replicas.lower(sums))
    return {"between replicas": np.array([*counts, len(jax.tree.leaves(sums))])}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("meshes", nargs="+")
    parser.add_argument("--rollouts", nargs="*", default=[])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--port", type=int)
    args = parser.parse_args()
    if args.processes > 1:
        jax.distributed.initialize(f"localhost:{args.port}", args.processes, args.process)
    meshes = {name: tuple(map(int, name.split("x"))) for name in args.meshes}
    meshes = {name: make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))]) for name, sizes in meshes.items()}
    results = {}
    for name in args.rollouts:
        *sizes, tensor = map(int, re.split("x| by ", name))
        results[name] = rollout_on(make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))]), tensor)
    print("end of rollouts", flush=True)
    for name, mesh in meshes.items():
        results[name] = {}
        if args.processes == 1:  # processes compile the same programs as one that has their devices
            results[name] |= sampling_at_once(args.folder, mesh) | table_gradients(mesh)
        if args.processes > 1 or name != "1x8x1":
            results[name] |= one_update(args.folder, mesh, exchanges=name == "2x2x2")
        if args.processes == 1 and name != "1x8x1":
            results[name] |= eight_bits(args.folder, mesh)
        if args.processes > 1 or name == "2x2x2":
            results[name] |= moved_rows(args.folder, mesh, by_length=args.processes == 1)
    if "2x2x2" in meshes:
        with pytest.MonkeyPatch.context() as patch:
            interpret_segment_kernel(patch.setattr)
            results["2x2x2 triton"] = one_update(args.folder, meshes["2x2x2"], "triton")
    if args.process == 0:
        for name, arrays in results.items():
            np.savez(args.out / f"{name}-{args.processes}.npz", **arrays)


if __name__ == "__main__":
    main()
