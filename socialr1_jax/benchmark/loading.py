"""Measure time and memory of loading and saving a Hugging Face folder of random weights.

Each measurement runs in a new process, which imports first and then loads the folder `repeats` times; peak memory is
that of the first load. If torch is installed, transformers alternately loads the same folder.
"""

import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import jax

from socialr1_jax.benchmark.config import LoadingBenchmark
from socialr1_jax.models.qwen3 import Qwen3, init_params
from socialr1_jax.models.shapes import named_shape
from socialr1_jax.runtime.terminal import print_result
from socialr1_jax.weights.hf_export import save_hf

_MEASURE = """
import json, sys, time
{imports}
def most():
    # VmHWM: ru_maxrss begins with what the process that started this one has held.
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
folder, dtype, repeats = sys.argv[1], sys.argv[2], int(sys.argv[3])
base = most()
seconds, peak = [], 0
for i in range(repeats):
    started = time.perf_counter()
    model = {load}
    seconds.append([time.perf_counter() - started])
    {use}
    seconds[-1].append(time.perf_counter() - started)
    peak = peak or most()
    {then}
print(json.dumps([seconds, base, peak, most()]))
"""
_OURS = {
    "imports": "import jax\nfrom socialr1_jax import load_hf\njax.devices()",
    "load": "jax.block_until_ready(load_hf(folder, dtype=dtype).params)",
    "use": "jax.block_until_ready([jax.numpy.max(x) for x in jax.tree.leaves(model)])",
}
_READERS = {
    "load": _OURS | {"then": "del model"},
    "transformers": {
        "imports": "import torch\nfrom transformers import Qwen3ForCausalLM",
        "load": "Qwen3ForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))",
        "use": "[x.max() for x in model.parameters()]",
        "then": "del model",
    },
    "save": {
        "imports": "import jax\nfrom socialr1_jax import load_hf, save_hf\njax.devices()",
        "load": "load_hf(folder, dtype=dtype)",
        "use": "pass",
        "then": "save_hf(model, folder + '-out', max_file_bytes=int(sys.argv[4]))",
    },
}


def print_loading(config: LoadingBenchmark) -> None:
    """Print the settings and the seconds and bytes of each reader and of a save, as a JSON line."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "model"
        nbytes = _make(config, folder)
        most = nbytes // config.shards + 1
        names = ["load", *(["transformers"] if find_spec("torch") else []), "save"]
        runs: dict[str, list[Any]] = {name: [] for name in names}
        for _ in range(config.rounds):
            for name in names:
                program = _MEASURE.format(**_READERS[name])
                arguments = [folder, config.into or config.dtype, 1 if name == "save" else config.repeats, most]
                done = subprocess.run(
                    [sys.executable, "-c", program, *map(str, arguments)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    check=True,
                )
                runs[name].append(json.loads(done.stdout))
    result: dict[str, Any] = config.model_dump() | {"weights_bytes": nbytes}
    for name, measured in runs.items():
        returned, used = (median(median(times[i] for times in run[0]) for run in measured) for i in (0, 1))
        base, peak, end = (int(median(run[i] for run in measured)) for i in (1, 2, 3))
        if name == "save":
            result[name] = {"above_loaded_bytes": end - peak, "file_bytes": most}
        else:
            seconds = {"seconds": round(returned, 3), "seconds_used": round(used, 3)}
            result[name] = seconds | {"peak_rss_bytes": peak, "before_bytes": base}
    print_result(json.dumps(result))


def _make(config: LoadingBenchmark, folder: Path) -> int:
    """Write the folder, and return the bytes of its weights."""
    shape = named_shape(config.shape)
    params = init_params(shape, jax.random.key(0), config.dtype)
    nbytes = sum(x.nbytes for x in jax.tree.leaves(params))
    # Tensors are not split: the embedding, a quarter of a 0.6B, gets its own file.
    save_hf(Qwen3(shape, params), folder, max_file_bytes=max(nbytes // (config.shards - 1 or 1), 1))
    return nbytes
