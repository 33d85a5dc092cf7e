#include <cuda_runtime.h>

#include "accumulate.h"

namespace dpid {
namespace {

// One thread a pixel: it walks the samples in order and reads every condition of its pixel, so no sum is
// shared between threads and the result is the same at every launch. Reads coalesce over pixels.
template <typename T>
__global__ void accumulate_kernel(AccumulateArgs<T> a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.B * a.HW) return;
  const int64_t b = i / a.HW, h = i % a.HW;
  const auto at = [&](int64_t n, int64_t k, int64_t c) {
    return to_float(a.eps_hat[(((n * a.K + k) * a.B + b) * a.C + c) * a.HW + h]);
  };
  for (int64_t n = 0; n < a.N; ++n) {
    const float half_weight = 0.5f * a.weight[n];
    const int64_t g = a.replicate[n];
    for (int64_t k = 0; k < a.K; ++k) {
      float sum = 0.0f;
      for (int64_t c = 0; c < a.C; ++c) {
        const int64_t e = c * a.HW + h;
        const Normals eps = normals4(a.seed, a.sample_id[n], static_cast<uint32_t>(b), static_cast<uint32_t>(e / 4));
        sum += squared_difference(eps.v[e % 4], at(n, k, c));
      }
      a.residuals[((g * a.K + k) * a.B + b) * a.HW + h] += half_weight * sum;
    }
    for (int64_t p = 0; p < a.P; ++p) {
      float sum = 0.0f;
      for (int64_t c = 0; c < a.C; ++c) {
        sum += squared_difference(at(n, a.pairs[2 * p], c), at(n, a.pairs[2 * p + 1], c));
      }
      a.gaps[((g * a.P + p) * a.B + b) * a.HW + h] += half_weight * sum;
    }
  }
}

}  // namespace

template <typename T>
int accumulate_cuda(const AccumulateArgs<T>& a, void* stream) {
  const int64_t total = a.B * a.HW;
  if (total == 0 || a.N == 0) return cudaSuccess;
  accumulate_kernel<T><<<static_cast<unsigned>((total + 127) / 128), 128, 0, static_cast<cudaStream_t>(stream)>>>(a);
  return cudaGetLastError();
}

template int accumulate_cuda(const AccumulateArgs<float>&, void*);
template int accumulate_cuda(const AccumulateArgs<Half>&, void*);
template int accumulate_cuda(const AccumulateArgs<BFloat16>&, void*);

}  // namespace dpid
