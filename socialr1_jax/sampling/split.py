"""Choose the number of devices that share a row in the rollout, from the bytes that a decode step reads and sends."""

from collections.abc import Sequence

from socialr1_jax.models.arithmetic import Arithmetic
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.runtime.chips import RATES, Chip
from socialr1_jax.sampling.memory import plan_batch


def fastest_split(
    model: Qwen3Config,
    chip: Chip,
    splits: Sequence[int],
    *,
    devices: int,
    prompts: int,
    group: int,
    width: int,
    slots: int,
    max_rows: int,
    itemsize: int,
    weights: str,
    memory: int | None,
) -> tuple[int, str]:
    """Return the split with the shortest predicted rollout of `prompts` x `group` responses, and one line with times.

    `splits` are the possible numbers of devices for each row. The other arguments are as in `plan_batch`, `max_rows` is
    for each device. If no split fits, the largest is returned.
    """
    steps, rollouts = {}, {}
    for tensor in splits:
        shards = devices // tensor
        rows = min(-(-prompts * group // shards), max_rows * tensor)
        try:
            plan = plan_batch(
                model,
                itemsize,
                rows=rows,
                group=group,
                prompts=-(-prompts // shards),
                width=width,
                slots=slots,
                backend="cudnn",
                tensor=tensor,
                memory=memory,
                weights=weights,
            )
        except ValueError:
            continue
        costs = Arithmetic(model, itemsize, shards, weights)
        steps[tensor] = _step(costs, chip, tensor, plan.rows, slots / 2, width, min(group, plan.rows))
        rollouts[tensor] = steps[tensor] * max(1, prompts * group / (plan.rows * shards))
    best = min(rollouts, key=lambda tensor: rollouts[tensor], default=max(splits))
    times = (f"{1000 * steps[size]:.1f} ms with {size}" if size in steps else f"{size} does not fit" for size in splits)
    return best, f"sampling.tensor auto is {best}; a decode step by the chip's peaks: {', '.join(times)}"


def _step(costs: Arithmetic, chip: Chip, tensor: int, rows: int, own: float, prefix: int, group: int) -> float:
    """Return the predicted seconds of a decode step of `rows` rows on `tensor` devices."""
    rates, model = RATES[chip.architecture], costs.config
    cost = costs.decode_step(rows * costs.copies, own, prefix, group) * (1 / (tensor * costs.copies))
    seconds = max(cost.bytes / (rates.memory * chip.bandwidth), cost.flops / (rates.matmul * chip.flops))
    if tensor == 1:
        return seconds
    # After attention, the feed-forward part and the embedding, each an all-reduce; the logits in one all-to-all.
    summed = 2 * rows * model.hidden_size * costs.itemsize
    times, exchanged = 2 * model.num_hidden_layers + 1, rows * model.vocab_size * 4 / tensor
    sent = (times * summed + exchanged) * (tensor - 1) / tensor
    return seconds + sent / (rates.links * chip.link) + (times + 1) * rates.latency
