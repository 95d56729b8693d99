"""`python -m tools`."""

import sys

from .cli import main

sys.exit(main())
