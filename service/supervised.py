"""A command that ends with its supervisor; `agatston up` starts ``python -m service.supervised COMMAND``."""

import sys

from service.cli import main
from service.supervisor import watch_parent

if __name__ == "__main__":
    watch_parent()
    sys.exit(main(sys.argv[1:]))
