"""Convert a Hugging Face folder (or hub id) to an Orbax folder.

    python convert/hf_to_orbax.py --src DIR --dst DIR --verify
    python convert/hf_to_orbax.py --src DIR --dst DIR --dtype bfloat16

Holds one stacked weight in memory at a time. The same command resumes a killed conversion.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("convert hf-to-orbax", __file__)
if __name__ == "__main__":
    run_script(main)
