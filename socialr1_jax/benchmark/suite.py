"""Run the whole record of one accelerator: benchmarks in order of their worth, each in a process of its own."""

import shlex
import subprocess
import sys
import time
from typing import Any

from socialr1_jax.benchmark.config import BenchmarkConfig
from socialr1_jax.config.sections import scalar_text
from socialr1_jax.runtime.terminal import remark

_START = 20  # seconds that a process needs before it measures anything
_PROGRAM = "from socialr1_jax.cli import main; main()"
_DECODE = {"dtype": "bfloat16", "repeats": 2, "update": False}
_UPDATE = {"dtype": "bfloat16", "repeats": 2, "sampling": False, "micro_batch_tokens": 8192}
# New tokens are few: each size of the caches is a program, which takes up to half a minute to compile.
_PARTS: tuple[dict[str, Any], ...] = (
    _DECODE | {"shape": "8b", "rows": 40, "prompt": 2048, "new": 128},
    _DECODE | {"shape": "8b", "rows": 40, "prompt": 2048, "new": 128, "weights": "int8"},
    _UPDATE | {"shape": "8b/6", "rows": 10, "prompt": 512, "new": 1536},
    _DECODE | {"shape": "0.6b", "rows": 40, "prompt": 896, "new": 64, "check": True, "peers": True},
    _UPDATE | {"shape": "0.6b", "rows": 80, "prompt": 512, "new": 128, "prompts": 16},
    _DECODE | {"shape": "8b", "rows": 128, "prompt": 896, "new": 128},
    _DECODE | {"shape": "8b", "rows": 40, "prompt": 2048, "new": 128, "weights": "float8"},
    _DECODE | {"shape": "0.6b", "rows": 4, "prompt": 128, "new": 16, "check": True, "dtype": "float32"},
    _UPDATE | {"shape": "1.7b", "rows": 20, "prompt": 512, "new": 1536},
    _DECODE | {"shape": "0.6b", "rows": 64, "prompt": 256, "new": 256, "requests": 256},
)
# Of a rehearsal: each size that a part sets is replaced.
_TRIAL = {"shape": "nano", "rows": 4, "prompt": 16, "new": 8, "prompts": 2, "requests": 8, "micro_batch_tokens": 256}


def parts(suite: str) -> list[BenchmarkConfig]:
    """Return the benchmarks of a suite: `gpu`, or `trial`, its rehearsal on the smallest model."""
    small: dict[str, Any] = _TRIAL if suite == "trial" else {}
    return [BenchmarkConfig(**part | {name: small[name] for name in part.keys() & small}) for part in _PARTS]


def arguments(config: BenchmarkConfig) -> list[str]:
    """Return the settings that were given, but for `record`, as arguments of the command."""
    names = (name for name in BenchmarkConfig.model_fields if name in config.model_fields_set - {"record"})
    return [text for name in names for text in (f"--{name}", scalar_text(getattr(config, name)))]


def run_suite(config: BenchmarkConfig) -> int:
    """Run the parts, which print and record their results. Return 1 if one failed, else 0.

    All together take at most `config.seconds`, and one at most a quarter of them. Parts without time are named.
    """
    end, status = time.monotonic() + config.seconds, 0
    for part in parts(config.suite):
        words = arguments(part)
        left = end - time.monotonic()
        if left < _START:
            remark(f"no time left for {shlex.join(words)}")
            continue
        command = [sys.executable, "-c", _PROGRAM, "benchmark", *words, "--record", config.record]
        try:
            failed = subprocess.run(command, timeout=min(left, config.seconds / 4)).returncode
            reason = f"ended with status {failed}"
        except subprocess.TimeoutExpired as error:
            failed, reason = 1, f"took more than {error.timeout:.0f} s"
        if failed:
            status = 1
            remark(f"{shlex.join(words)}: {reason}")
    return status
