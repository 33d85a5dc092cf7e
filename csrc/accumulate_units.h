// How the CUDA kernel of accumulate divides its work: pairs of conditions among blocks and warps, samples among blocks.
#pragma once

#include <cuda_runtime.h>

#include "accumulate.h"

namespace dpid {
namespace {

constexpr int kWarp = 32;
constexpr int kGroup = 4;                // conditions of a group; a warp compares one group with another
constexpr int kSlots = kGroup * kGroup;  // sums of a warp and pixel
constexpr int kWide = 16, kNarrow = 8;   // most conditions of a block: four groups and, if others than these, two
constexpr int kWarps = 10;               // most warps of a block: all pairs of four groups
constexpr unsigned kAll = 0xffffffffu;   // all threads of a warp

__host__ __device__ inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The number of pairs i <= j < count, and where those with j = count begin if pairs are sorted by j.
__host__ __device__ inline int64_t triangle(int64_t count) { return count * (count + 1) / 2; }

__host__ __device__ inline int64_t all_slots(int64_t K) { return kSlots * triangle(divide_up(K, kGroup)); }

// Where the product of condition i of a group is, among the kSlots of the group with itself: the gaps i < j leave half
// of them free, of which this is (i + 1, i) or, for the last one, (i, 0).
__host__ __device__ constexpr int product_slot(int i) { return i + 1 < kGroup ? (i + 1) * kGroup + i : i * kGroup; }

// The slot of a residual (row < K), gap or product (row >= K + P) among those of all pairs i <= j of conditions, kSlots
// for every two groups. Residual k has that of (k, k), so that the gap of a condition with itself, which is zero, has
// none: -1.
template <typename T>
__device__ int64_t slot_of(const AccumulateArgs<T>& a, int64_t row) {
  int64_t i = row, j = row;
  if (row >= a.K + a.P) {
    const int64_t k = row - a.K - a.P, group = k / kGroup;
    return (triangle(group) + group) * kSlots + product_slot(static_cast<int>(k % kGroup));
  }
  if (row >= a.K) {
    const int64_t left = a.pairs[2 * (row - a.K)], right = a.pairs[2 * (row - a.K) + 1];
    if (left == right) return -1;
    i = min(left, right), j = max(left, right);
  }
  return (triangle(j / kGroup) + i / kGroup) * kSlots + i % kGroup * kGroup + j % kGroup;
}

// What a block compares: the conditions from `wide` on with each other, or those from `narrow` on with them. Part i * i
// and the 2 i after it have wide = 16 i, so that all parts together have all pairs.
struct Part {
  int wide, narrow;
  bool diagonal;

  __device__ explicit Part(int index) {
    int i = 0;
    while ((i + 1) * (i + 1) <= index) ++i;
    wide = kWide * i, narrow = kNarrow * (index - i * i), diagonal = narrow == wide;
  }
  // The condition in a row of shared memory: first come those from `wide` on.
  __device__ int condition(int row) const { return row < kWide ? wide + row : narrow + row - kWide; }
};

// What a warp compares: the groups in rows left … left + 3 and right … right + 3 of shared memory. Their slots begin at
// kSlots * unit.
struct Unit {
  int left, right, unit;
  bool diagonal, exists;

  __device__ Unit(const Part& part, int64_t K) {
    const int warp = threadIdx.x / kWarp;
    int x = warp / kGroup, y = warp % kGroup;
    if (part.diagonal) {
      for (y = 0; triangle(y + 1) <= warp;) ++y;
      x = warp - static_cast<int>(triangle(y));
    }
    left = kGroup * x + (part.diagonal ? 0 : kWide), right = kGroup * y, diagonal = part.diagonal && x == y;
    const int i = part.condition(left) / kGroup, j = part.condition(right) / kGroup;
    unit = static_cast<int>(triangle(j)) + i;
    exists = j * kGroup < K && left < kWide + kNarrow;
  }
};

// Whether any residual or gap has a slot of the unit.
template <typename T>
__device__ bool is_needed(const AccumulateArgs<T>& a, int unit) {
  bool found = false;
  for (int64_t row = threadIdx.x % kWarp; row < a.K + a.P; row += kWarp) {
    const int64_t slot = slot_of(a, row);
    found |= slot >= 0 && slot / kSlots == unit;
  }
  return __ballot_sync(kAll, found) != 0;
}

// The samples of replicate g in order. A warp looks for them together, each thread at one of the next 32.
template <typename T>
struct Samples {
  const AccumulateArgs<T>& a;
  const int N, g;
  int base = -kWarp, n = 0;  // n = N: there are no more
  unsigned left = 0;
  int64_t ids = 0, id = 0;
  float weights = 0.0f, weight = 0.0f;

  __device__ Samples(const AccumulateArgs<T>& a, int g) : a(a), N(static_cast<int>(a.N)), g(g) { next(); }

  __device__ void next() {
    while (left == 0) {
      base += kWarp, n = N;
      if (base >= N) return;
      const int mine = base + static_cast<int>(threadIdx.x % kWarp);
      const bool inside = mine < N;
      const int64_t replicate = inside ? a.replicate[mine] : -1;
      ids = inside ? a.sample_id[mine] : 0, weights = inside ? a.weight[mine] : 0.0f;
      left = __ballot_sync(kAll, replicate == g);
    }
    const int lane = __ffs(static_cast<int>(left)) - 1;
    n = base + lane, id = __shfl_sync(kAll, ids, lane), weight = __shfl_sync(kAll, weights, lane);
    left &= left - 1;
  }
};

}  // namespace
}  // namespace dpid
