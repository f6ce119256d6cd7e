"""``python -m stickyproxy``."""

import sys

from stickyproxy.cli.main import main

sys.exit(main())
