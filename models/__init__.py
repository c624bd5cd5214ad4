"""Networks, weights, inference, simulator and training. Knows no database, queue or network."""

from __future__ import annotations

import os

# Threads that wait must sleep, not spin: where other processes want the cores too (two training runs, a node's
# worker beside its database) spinning made scoring 5 to 10 times slower. OpenMP reads it when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
