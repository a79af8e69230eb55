"""`python -m monosem VERB`, which `torchrun -m monosem VERB` starts on every rank."""

import sys

from monosem.cli import main

sys.exit(main())
