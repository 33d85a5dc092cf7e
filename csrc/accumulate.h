// accumulate: adds, for every sample n of replicate g = replicate[n] and every pixel h of H*W,
//   gaps     [g,p,b,h] += 1/2 weight[n] sum_c (eps_hat[n,i,b,c,h] - eps_hat[n,j,b,c,h])^2, (i, j) = pairs[p]
//   residuals[g,k,b,h] += 1/2 weight[n] sum_c (eps[n,b,c,h] - eps_hat[n,k,b,c,h])^2
// with eps regenerated from (seed, sample_id[n]). Samples are added in order: bit-reproducible.
#pragma once

#include "philox.h"

namespace dpid {

template <typename T>
struct AccumulateArgs {
  float* gaps;               // [G,P,B,HW]
  float* residuals;          // [G,K,B,HW]
  const T* eps_hat;          // [N,K,B,C,HW]
  const float* weight;       // [N]
  const int64_t* replicate;  // [N], each in [0, G)
  const int64_t* pairs;      // [P,2], each in [0, K)
  const int64_t* sample_id;  // [N]
  int64_t N, K, B, C, HW, P, G;
  uint64_t seed;
};

DPID_INLINE float squared_difference(float a, float b) { return (a - b) * (a - b); }

template <typename T>
void accumulate_cpu(const AccumulateArgs<T>& args, int threads);

template <typename T>
int accumulate_cuda(const AccumulateArgs<T>& args, void* stream);  // a cudaError_t

}  // namespace dpid
