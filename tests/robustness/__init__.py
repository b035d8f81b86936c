"""What damage, bad input, kills and full disks must never do; docs/reliability.md says what.

`make test` runs a sample; `make robustness` runs the whole, with other random numbers each time.
"""

import os

WHOLE = os.environ.get("GVVAD_ROBUSTNESS") == "whole"
