"""Which cases the benchmark of the ops measures."""

import bench_ops


def test_a_gpu_measures_what_the_documentation_names_in_few_cases():
    found = bench_ops.cases("cuda", False)
    assert ("SDXL 4x128x128", 8, [4, 16]) in found
    assert sum(1 + len(counts) for _, _, counts in found) <= 20  # each takes the compiler a second or two
