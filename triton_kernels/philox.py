"""Standard normal noise by Triton's Philox4x32-10 and the Box–Muller transform of ``csrc/philox.h``."""

import triton
import triton.language as tl


@triton.jit
def box_muller(radius_bits, angle_bits):
    """Two independent normals from two uint32 words; the angle is reduced to [-π/4, π/4) in integers."""
    u = radius_bits.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    radius = tl.sqrt(-2.0 * tl.log(u))
    quadrant = (angle_bits + 0x20000000) >> 30
    rest = (angle_bits - (quadrant << 30)).to(tl.int32, bitcast=True)
    t = rest.to(tl.float32) * 1.46291807926715968105e-9
    t2 = t * t
    s = t + t * t2 * ((-1.9515295891e-4 * t2 + 8.3321608736e-3) * t2 - 1.6666654611e-1)
    c = 1.0 - 0.5 * t2 + t2 * t2 * (
        (2.443315711809948e-5 * t2 - 1.388731625493765e-3) * t2 + 4.166664568298827e-2
    )  # fmt: skip
    swap = (quadrant & 1) != 0
    cosine = tl.where(swap, s, c)
    sine = tl.where(swap, c, s)
    first = tl.where(((quadrant + 1) & 2) != 0, -radius * cosine, radius * cosine)
    second = tl.where((quadrant & 2) != 0, -radius * sine, radius * sine)
    return first, second


@triton.jit
def normal(seed, sample_id, element):
    """The noise ε of ``element`` (a block of indices) of an image; ``sample_id`` < 0 is the antithetic partner."""
    antithetic = sample_id < 0
    magnitude = tl.where(antithetic, -1 - sample_id, sample_id)
    zero = element * 0
    block = (element // 4).to(tl.uint32)
    low = (zero + (magnitude & 0xFFFFFFFF)).to(tl.uint32)
    high = (zero + (magnitude >> 32)).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, block, zero.to(tl.uint32), low, high)
    lane = element % 4
    first, second = box_muller(tl.where(lane < 2, w0, w2), tl.where(lane < 2, w1, w3))
    eps = tl.where(lane % 2 == 0, first, second)
    return tl.where(antithetic, -eps, eps)
