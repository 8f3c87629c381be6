"""Write the report of a run, or of several runs compared, as one HTML file that needs no network and no server.

    python scripts/report.py runs/quickstart
    python scripts/report.py runs/full runs/outcome_only --output comparison.html

Works for running and for stopped runs.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("report", __file__)
if __name__ == "__main__":
    run_script(main)
