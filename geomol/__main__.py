"""`python -m geomol`: the command line where the `geomol` script is not on the path."""

import sys

from geomol.cli import main

if __name__ == "__main__":
    sys.exit(main())
