"""Time and memory of reading and writing a Hugging Face folder of random weights; one JSON line on standard output.

    python scripts/benchmark_loading.py --shape 0.6b --dtype bfloat16 --shards 4

Every figure comes from a process of its own, which imports first and then reads the folder `repeats` times; the most
memory that it held is that of the first reading. With torch installed transformers reads the same folder in turn.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("benchmark loading", __file__)
if __name__ == "__main__":
    run_script(main)
