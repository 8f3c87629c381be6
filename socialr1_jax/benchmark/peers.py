"""Time transformers and TRL on the same work, with random weights in torch, in a process of their own.

That process has its own threads and allocators, and its part of an accelerator's memory. torch, transformers and trl
come with the extra `test`; the rest of the package does not need them.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.runtime.startup import keep_memory


class PeersMissing(ImportError):
    """Raised when torch, transformers or trl is missing; the message says how to install it."""


def peer_process() -> ProcessPoolExecutor:
    """Start the process of the peers. glibc keeps its memory as it does ours: the peers gain from it, too."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=keep_memory)


@cache
def _loaded(config: Qwen3Config, dtype: str) -> Transformers:
    return Transformers(config, dtype)


def transformers_seconds(config: Qwen3Config, dtype: str, method: str, *sizes: int) -> float:
    """Return the seconds of a method of `Transformers`, whose model is made by the first call."""
    return getattr(_loaded(config, dtype), method)(*sizes)


class Transformers:
    """A random `Qwen3ForCausalLM` of a shape, entirely in float32 or bfloat16, with torch's attention (sdpa)."""

    def __init__(self, config: Qwen3Config, dtype: str) -> None:
        try:
            import torch
            import transformers
        except ImportError as error:
            raise PeersMissing(f"peers need {error.name}: pip install -e '.[test]'") from error
        transformers.utils.logging.set_verbosity_error()
        self._torch, self._vocabulary = torch, config.vocab_size
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(0)
        model = transformers.Qwen3ForCausalLM(_torch_config(config))
        self.model = model.to(getattr(torch, dtype)).to(self._device).eval()
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6)

    def prefill(self, rows: int, prompt: int) -> float:
        """Return the seconds of a forward pass that fills the caches of `rows` prompts."""
        ids = self._ids(rows, prompt)
        with self._torch.no_grad():
            return self._seconds(lambda: self.model(ids, use_cache=True, logits_to_keep=1))

    def decode(self, rows: int, prompt: int, new: int) -> float:
        """Return the seconds of `rows` responses of `new` tokens at temperature 1, minus those of one token."""
        ids = self._ids(rows, prompt)

        def generate(count: int) -> Any:
            return self.model.generate(
                ids,
                attention_mask=self._torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=True,
                temperature=1.0,
                top_p=1.0,
                top_k=0,
                pad_token_id=0,
            )

        with self._torch.no_grad():
            return self._seconds(lambda: generate(new)) - self._seconds(lambda: generate(1))

    def update(self, rows: int, tokens: int) -> float:
        """Return the seconds of forward, backward and AdamW with cross-entropy on all tokens of `rows` rows."""
        ids = self._ids(rows, tokens)

        def step() -> None:
            self._optimizer.zero_grad()
            self.model(ids, labels=ids).loss.backward()
            self._optimizer.step()

        return self._seconds(step)

    def _ids(self, rows: int, width: int) -> Any:
        return self._torch.randint(0, self._vocabulary, (rows, width), device=self._device)

    def _seconds(self, work: Callable[[], Any]) -> float:
        begun = time.perf_counter()
        work()
        if self._device == "cuda":
            self._torch.cuda.synchronize()
        return time.perf_counter() - begun


def trl_steps(
    config: Qwen3Config, dtype: str, *, prompts: int, group: int, prompt: int, new: int, steps: int
) -> list[float]:
    """Return the seconds of `steps` + 1 GRPO steps of TRL's trainer, the first of which warms up; all in `dtype`.

    A step has `prompts` x `group` responses of exactly `new` tokens and a KL term; the reward counts characters.
    """
    try:
        import torch
        import transformers
        import trl
        from datasets import Dataset
        from tokenizers import Tokenizer, models, pre_tokenizers
    except ImportError as error:
        raise PeersMissing(f"peers need {error.name}: pip install -e '.[test]'") from error
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(config.vocab_size)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="w0", eos_token="w1", unk_token="w0"
    )
    texts = [
        " ".join(f"w{1 + (i * prompt + j) % (config.vocab_size - 1)}" for j in range(prompt))
        for i in range(prompts * (steps + 1))
    ]
    seconds: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.begun)

    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = transformers.Qwen3ForCausalLM(_torch_config(config))
        model.generation_config.eos_token_id = None
        model.save_pretrained(Path(folder) / "model")
        tokenizer.save_pretrained(Path(folder) / "model")
        settings = trl.GRPOConfig(
            output_dir=os.path.join(folder, "run"),
            per_device_train_batch_size=prompts * group,
            num_generations=group,
            max_completion_length=new,
            max_steps=steps + 1,
            learning_rate=5e-7,
            beta=0.04,
            temperature=1.0,
            report_to=[],
            logging_steps=1000,
            save_strategy="no",
            bf16=False,
            disable_tqdm=True,
            model_init_kwargs={"dtype": dtype},
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,
            generation_kwargs={"eos_token_id": None, "min_new_tokens": new},
        )
        trl.GRPOTrainer(
            model=str(Path(folder) / "model"),
            args=settings,
            processing_class=tokenizer,
            callbacks=[Clock()],
            reward_funcs=lambda completions, **_: [float(len(set(text))) for text in completions],
            train_dataset=Dataset.from_dict({"prompt": texts}),
        ).train()
    return seconds


def _torch_config(config: Qwen3Config) -> Any:
    import transformers

    fields = {name: value for name, value in vars(config).items() if name != "scalar_head"}
    fields |= {"attn_implementation": "sdpa", "eos_token_id": None, "pad_token_id": 0}
    return transformers.Qwen3Config(**fields)
