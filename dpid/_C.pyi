has_cuda: bool
cuda_architectures: str

def noisy_channel(
    x: int, logsnr: int, sample_id: int, z: int,
    N: int, B: int, E: int, seed: int, dtype: int, threads: int, stream: int, /,
) -> None: ...  # fmt: skip
def accumulate(
    gaps: int, residuals: int, eps_hat: int, weight: int, replicate: int, pairs: int, sample_id: int,
    N: int, K: int, B: int, C: int, HW: int, P: int, G: int, seed: int, dtype: int, threads: int, stream: int, /,
) -> None: ...  # fmt: skip
def philox4x32(counter: int, key: int, out: int, n: int, /) -> None: ...
