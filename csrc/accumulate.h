// accumulate adds to running sums the squared differences of predictions of the noise; docs/theory.md, eq. (6). For
// every sample n of replicate g = replicate[n] and every pixel h of H*W
//   gaps     [g,p,b,h] += 1/2 weight[n] sum_c (eps_hat[n,i,b,c,h] - eps_hat[n,j,b,c,h])^2, (i, j) = pairs[p]
//   residuals[g,k,b,h] += 1/2 weight[n] sum_c (eps[n,c,h] - eps_hat[n,k,b,c,h])^2
// with eps regenerated from (seed, sample_id[n]). It also sets, for every sample, squares to the same without weights,
// summed over pixels, and to half the products eps_hat (eps - eps_hat), summed over channels and pixels; eq. (64)
// there. The order of additions does not depend on the number of threads, so results are bit-reproducible.
#pragma once

#include "philox.h"

namespace dpid {

template <typename T>
struct AccumulateArgs {
  float* gaps;               // [G,P,B,HW]
  float* residuals;          // [G,K,B,HW]
  float* squares;            // [N,2K+P,B], of K residuals, then P pairs, then K products
  float* scratch;            // sums over the pixels of every tile, laid out as the kernel likes
  const T* eps_hat;          // [N,K,B,C,HW]
  const float* weight;       // [N]
  const int64_t* replicate;  // [N], each in [0, G)
  const int64_t* pairs;      // [P,2], each in [0, K)
  const int64_t* sample_id;  // [N]
  int64_t N, K, B, C, HW, P, G;
  uint64_t seed;

  DPID_INLINE int64_t rows() const { return 2 * K + P; }  // of squares
};

// The number of elements of the scratch memory.
int64_t accumulate_scratch_cpu(int64_t N, int64_t K, int64_t P, int64_t B, int64_t HW);
int64_t accumulate_scratch_cuda(int64_t N, int64_t K, int64_t B, int64_t HW);

template <typename T>
void accumulate_cpu(const AccumulateArgs<T>& args, int threads);

template <typename T>
int accumulate_cuda(const AccumulateArgs<T>& args, void* stream);  // a cudaError_t

}  // namespace dpid
