"""Oracles shared by the tests: tiny random Qwen3 folders written by transformers, and float64 NumPy formulas.

torch and transformers are imported inside the fixtures, so that tests of the plain-Python modules do not pay for them.
"""

import collections
import contextlib
import functools
import gc
import json
import logging
import os
import shutil
import tempfile
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socialr1_jax.runtime.startup import keep_memory, set_xla_flags

keep_memory()  # as the scripts do
gc.set_threshold(50_000)
# Most programs of the tests run a few times only, and compiling them took most of the suite's time: with these flags
# the gradient of a toy's loss compiles in 1 s instead of 7. XLA_FLAGS wins. Later versions have no other emitters.
_OLDER = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)
set_xla_flags(
    (
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1",
        *(["--xla_cpu_use_fusion_emitters=false"] if _OLDER else []),
    )
)

# Programs that one test has compiled, the next one and the scripts that tests start read from disk. A folder of this
# session alone (its workers share it), so that nothing old is ever taken for new.
_SESSION = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"compiled-{_SESSION}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def pytest_collection_finish() -> None:
    """Exempts the imported modules from garbage collection, which took half of the time of tracing programs."""
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The first process clears the folder away when all workers have ended."""
    if not hasattr(session.config, "workerinput"):
        for folder in Path(tempfile.gettempdir()).glob(f"compiled-{_session(session)}*"):
            shutil.rmtree(folder, ignore_errors=True)


def _session(session: pytest.Session) -> str:
    return getattr(getattr(session.config, "_xdist", None), "testrunuid", None) or _SESSION


VOCAB_SIZE = 160
NUM_TOKENS = 140  # of `padded_vocabulary`
BASE_FIELDS = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def _architecture(heads, kv_heads, head_dim, theta, *, tied=False, bias=False, eps=1e-6, layers=2):
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "tie_word_embeddings": tied,
        "attention_bias": bias,
        "rms_norm_eps": eps,
        "num_hidden_layers": layers,
    }


# Each axis of the list appears with each of its values; head_dim is hidden / heads only in the first one.
ARCHITECTURES = {
    "tied_gqa1": _architecture(4, 4, 16, 1e6, tied=True),
    "untied_gqa2": _architecture(4, 2, 24, 5e6),
    "tied_gqa4_bias": _architecture(4, 1, 32, 1e6, tied=True, bias=True, eps=1e-3),
    "untied_gqa1_bias": _architecture(2, 2, 48, 1e6, bias=True),
    "tied_gqa2_3layers": _architecture(4, 2, 8, 5e6, tied=True, eps=1e-3, layers=3),
    "untied_gqa4_bias": _architecture(8, 2, 16, 5e6, bias=True, layers=3),
}


@dataclass(frozen=True)
class TinyModel:
    """A folder as transformers writes it, the float32 torch model it came from, and the configuration's fields."""

    folder: Path
    torch_model: Any
    fields: dict[str, Any]

    def logits(self, tokens) -> np.ndarray:
        """float32 logits [t, v] of one row without padding."""
        import torch

        with torch.no_grad():
            return self.torch_model(torch.tensor([list(map(int, tokens))])).logits[0].float().numpy()


def _randomise(torch_model, seed):
    """No weight is left at 1 or 0: a norm or bias that is skipped, swapped or misplaced must change the logits."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in torch_model.named_parameters():
            if name.endswith("norm.weight"):
                weight.copy_(0.4 + 1.2 * torch.rand(weight.shape, generator=generator))
                if name == "model.norm.weight":  # both signs: else a tied model repeats its input token for ever
                    weight.mul_(torch.where(torch.rand(weight.shape, generator=generator) < 0.5, -1.0, 1.0))
            elif name.endswith("bias"):
                weight.copy_(0.5 * torch.randn(weight.shape, generator=generator))
            else:
                # 0.4 on the embedding gives (tied or untied) logits a spread of about 3: neither flat nor saturated.
                scale = 0.4 if "embed" in name or "lm_head" in name else weight.shape[1] ** -0.5
                weight.copy_(scale * torch.randn(weight.shape, generator=generator))


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> Callable[[str], TinyModel]:
    """name in ARCHITECTURES -> TinyModel, built once a session."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    built: dict[str, TinyModel] = {}

    def build(name):
        if name not in built:
            fields = BASE_FIELDS | ARCHITECTURES[name]
            torch_model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**fields)).eval()
            _randomise(torch_model, seed=sum(map(ord, name)))
            folder = tmp_path_factory.mktemp(name)
            torch_model.save_pretrained(folder)
            built[name] = TinyModel(folder, torch_model, fields)
        return built[name]

    return build


@pytest.fixture(scope="session")
def tiny(tiny_models) -> TinyModel:
    """The model that tests use when the architecture does not matter."""
    return tiny_models("untied_gqa2")


@pytest.fixture(scope="session")
def tiny_jax(tiny):
    """`tiny` loaded by the package in float32; tests must not change it."""
    from socialr1_jax import load_hf

    return load_hf(tiny.folder)


@pytest.fixture(scope="session")
def padded_vocabulary(tiny, tmp_path_factory) -> Path:
    """`tiny` with a tokenizer of NUM_TOKENS tokens: like Qwen3, it has more embedding rows than there are tokens."""
    folder = Path(shutil.copytree(tiny.folder, tmp_path_factory.mktemp("padded") / "model"))
    added = [{"id": NUM_TOKENS - 1, "content": "<|im_end|>", "special": True}]
    names = ["<|endoftext|>", *(f"t{number}" for number in range(1, NUM_TOKENS - 1))]
    model = {"type": "BPE", "vocab": {name: number for number, name in enumerate(names)}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": added, "model": model}))
    return folder


@pytest.fixture(scope="session")
def ragged_rows() -> list[np.ndarray]:
    """Rows of token ids of different lengths, one of a single token."""
    rng = np.random.default_rng(11)
    return [rng.integers(0, VOCAB_SIZE, size=length) for length in (1, 7, 18, 33)]


@pytest.fixture(scope="session")
def pad_rows():
    """(rows, width, seed) -> tokens_bt int32, lengths_b int32; padding is random ids, so that reading it shows."""

    def pad(rows, width=None, seed=0):
        width = width or max(map(len, rows))
        tokens_bt = np.random.default_rng(seed).integers(0, VOCAB_SIZE, size=(len(rows), width)).astype(np.int32)
        for row, tokens in enumerate(rows):
            tokens_bt[row, : len(tokens)] = tokens
        return tokens_bt, np.array([len(row) for row in rows], np.int32)

    return pad


@pytest.fixture(scope="session")
def log_softmax():
    """float64 log-softmax over the last axis; -inf stays -inf."""

    def compute(logits):
        shifted = np.asarray(logits, np.float64)
        shifted = shifted - shifted.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    return compute


@pytest.fixture(scope="session")
def filter_oracle(log_softmax):
    """One row: (logits_v, temperature, top_k, top_p, min_p) -> scaled_v, kept_v, unsure_v in float64.

    Temperature first, then top-k, top-p and min-p, each on the renormalised rest of the one before.
    `unsure_v` marks tokens so near a threshold (1e-5 in probability) that float32 may decide either way.
    """

    def compute(logits_v, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
        scaled = np.asarray(logits_v, np.float64) / temperature
        kept = np.isfinite(scaled)
        unsure = np.zeros_like(kept)
        if top_k:
            kept &= scaled >= np.sort(scaled)[::-1][min(top_k, scaled.size) - 1]
        if top_p < 1.0:
            probs = np.exp(log_softmax(np.where(kept, scaled, -np.inf)))
            order = np.argsort(-probs, kind="stable")
            before = np.empty_like(probs)  # probability of all tokens ahead of this one: kept while that is below top_p
            before[order] = np.cumsum(probs[order]) - probs[order]
            unsure |= kept & (np.abs(before - top_p) < 1e-5)
            kept &= (before < top_p) | (before == 0)
        if min_p > 0.0:
            probs = np.exp(log_softmax(np.where(kept, scaled, -np.inf)))
            unsure |= kept & (np.abs(probs - min_p * probs.max()) < 1e-5) & (probs < probs.max())
            kept &= probs >= min_p * probs.max()
        return scaled, kept, unsure

    return compute


def trl_trainer(trl, **settings):
    """What GRPOTrainer's methods read of a trainer: one process, one micro-batch a step, k3 as it is."""
    trainer = types.SimpleNamespace(
        args=types.SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1, report_to=[]),
        accelerator=types.SimpleNamespace(
            num_processes=1,
            is_main_process=False,
            reduce=lambda x, **_: x,
            gather=lambda x: x,
            autocast=contextlib.nullcontext,
        ),
        model=types.SimpleNamespace(training=True),
        epsilon_low=0.2,
        epsilon_high=0.2,
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
    )
    trainer._get_per_token_logps_and_entropies = functools.partial(
        trl.GRPOTrainer._get_per_token_logps_and_entropies, trainer
    )
    vars(trainer).update(settings)
    return trainer


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """The configuration of a GRPO run on the toy's model and questions, as the quickstart leaves them after SFT."""
    from toys import toy

    from socialr1_jax.config.run import RunConfig
    from socialr1_jax.training.quickstart import run_quickstart

    folder = tmp_path_factory.mktemp("start")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socialr1_jax.training.quickstart.train_grpo", lambda config: False)
        assert not run_quickstart(toy(folder))
    values = {name: value for name, value in toy(folder).model_dump().items() if name in RunConfig.model_fields}
    values["model"] |= {"path": str(folder / "sft")}
    values["data"] |= {"train": str(folder / "questions/train.jsonl"), "eval": str(folder / "questions/heldout.jsonl")}
    return RunConfig.model_validate(values)


@pytest.fixture(scope="module")
def one_layer():
    """Models of the shape `nano` have one narrow layer in this module."""
    from toys import ONE_LAYER

    from socialr1_jax.models.shapes import SHAPES

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "nano", replace(SHAPES["nano"], **ONE_LAYER))
        yield


@pytest.fixture(scope="module")
def segment_kernel():
    """The attention "triton" of packed rows is interpreted in this module. Blocks of attention are small."""
    from toys import interpret_segment_kernel

    with pytest.MonkeyPatch.context() as patch:
        interpret_segment_kernel(patch.setattr)
        yield


_programs: dict[tuple, Any] = {}


@pytest.fixture(scope="module")
def programs_once():
    """Runs of equal settings share their jitted functions, those of equal losses all but the optimizer's."""
    from socialr1_jax.grpo import step

    def compile_once(config, model, num_tokens, backend, real=step.compile_programs):
        sampling = config.sampling.model_dump_json(include={"temperature", "max_new_tokens"})
        loss = (config.model.model_dump_json(exclude={"path"}), config.grpo, sampling, model, num_tokens, backend)
        key = (*map(str, loss), str(config.optimizer), config.updates)
        if key not in _programs:
            programs = real(config, model, num_tokens, backend)
            first = _programs.setdefault(key[:-2], programs)
            update = replace(first.update, apply=programs.update.apply)
            _programs[key] = programs._replace(update=update, logprobs=first.logprobs)
        return _programs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "compile_programs", compile_once)
        yield


@pytest.fixture
def load_without_a_warning():
    """load(class of transformers, folder) -> the model; nothing may be said, missing or left over."""

    def load(kind, folder):
        records = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = records.append
        logging.getLogger("transformers").addHandler(handler)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                loaded, info = kind.from_pretrained(folder, output_loading_info=True, dtype="auto")
        finally:
            logging.getLogger("transformers").removeHandler(handler)
        assert [record.getMessage() for record in records] == []
        assert {key: value for key, value in info.items() if value} == {}
        return loaded

    return load
