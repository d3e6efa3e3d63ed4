"""The benchmarks: commands of the repository, run as ``python -m benchmarks.NAME``, each of which prints its table."""

import os

# Said before torch is imported, because its profiler listens only then; it is talkative on machines without a GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
