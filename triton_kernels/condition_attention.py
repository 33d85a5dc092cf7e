"""softmax(q kᵀ / √D) v, the queries of all samples of a condition against that condition's keys; fp32 inside.

K and V of a condition are loaded once a program and never copied per sample. A text has few tokens (77), so all of
them fit one block and the softmax needs no running maximum.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _condition_attention_kernel(
    q, k, v, out, M, L, heads, D, scale, BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr
):
    condition = tl.program_id(0).to(tl.int64) // heads
    head = tl.program_id(0) % heads
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    token = tl.arange(0, BLOCK_L)
    d = tl.arange(0, BLOCK_D)
    row = ((condition * M + m) * heads + head)[:, None] * D + d[None, :]
    key = ((condition * L + token) * heads + head)[:, None] * D + d[None, :]
    row_mask = (m[:, None] < M) & (d[None, :] < D)
    key_mask = (token[:, None] < L) & (d[None, :] < D)
    queries = tl.load(q + row, mask=row_mask, other=0.0).to(tl.float32)
    keys = tl.load(k + key, mask=key_mask, other=0.0).to(tl.float32)
    values = tl.load(v + key, mask=key_mask, other=0.0).to(tl.float32)
    scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
    scores = tl.where(token[None, :] < L, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    mixed = tl.dot(weights, values, input_precision="ieee") / tl.sum(weights, 1)[:, None]
    tl.store(out + row, mixed.to(out.dtype.element_ty), mask=row_mask)


def condition_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [K,M,heads,D], k and v [K,L,heads,D] -> [K,M,heads,D]; arguments as checked by ``dpid.ops``."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    conditions, m, heads, d = q.shape
    if out.numel():
        # tl.dot takes no side under 16.
        blocks = {"BLOCK_M": 64, "BLOCK_L": max(16, triton.next_power_of_2(k.shape[1])),
                  "BLOCK_D": max(16, triton.next_power_of_2(d))}  # fmt: skip
        grid = (conditions * heads, triton.cdiv(m, 64))
        _condition_attention_kernel[grid](q, k, v, out, m, k.shape[1], heads, d, d**-0.5, **blocks)
    return out
