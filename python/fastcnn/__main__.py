"""python -m fastcnn: the same as the command fastcnn."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
