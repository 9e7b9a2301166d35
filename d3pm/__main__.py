"""``python -m d3pm VERB ...``: what ``torchrun -m d3pm VERB ...`` starts in every process."""

import sys

from d3pm.cli import main

if __name__ == "__main__":
    sys.exit(main())
