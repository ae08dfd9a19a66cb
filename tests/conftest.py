"""Every test runs on one thread and offline, set before torch or transformers is imported."""

import os

os.environ |= {
    "OMP_NUM_THREADS": "1",  # two workers share the machine
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "WDS_SECURE": "1",
    "MPLBACKEND": "Agg",
}
