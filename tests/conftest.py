"""Shared by all tests. Triton kernels run on the CPU through Triton's interpreter, chosen before it is imported."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
