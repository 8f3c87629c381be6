"""Convert an Orbax folder from `hf_to_orbax.py`, or a checkpoint of a run, to a Hugging Face folder.

    python convert/orbax_to_hf.py --src DIR --dst DIR --verify
    python convert/orbax_to_hf.py --src runs/mine --step best --dst runs/mine/best

The same command resumes a killed conversion after the last complete file.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("convert orbax-to-hf", __file__)
if __name__ == "__main__":
    run_script(main)
