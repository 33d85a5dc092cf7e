has_cuda: bool
cuda_architectures: str

View = tuple[int, int, tuple[int, ...]]  # address, dtype, shape

def noisy_channel(*, x: View, logsnr: View, sample_id: View, z: View, seed: int, threads: int, stream: int) -> None: ...
def accumulate_scratch(*, eps_hat: View, pairs: View, threads: int) -> int: ...
def accumulate(
    *, gaps: View, residuals: View, squares: View, scratch: View, eps_hat: View, weight: View, replicate: View,
    pairs: View, sample_id: View, seed: int, threads: int, stream: int,
) -> None: ...  # fmt: skip
def philox4x32(*, counter: View, key: View, out: View) -> None: ...
