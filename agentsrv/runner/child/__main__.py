"""Finds the package without site-packages (-S) or an environment (-I), and is the zygote."""

import os
import sys

# Behind the standard library: nothing that lies beside the package can take the place of a part of it.
sys.path.append(os.path.abspath(f"{__file__}/../../../.."))

from agentsrv.runner.child.zygote import main

if __name__ == "__main__":
    main()
