"""`python -m aigc_helpers.notebooks`."""

import sys

from .cli import main

sys.exit(main())
