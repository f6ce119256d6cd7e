"""``python -m stickyproxy``."""

import sys

from stickyproxy.cli import main

sys.exit(main())
