// noisy_channel adds noise to latents at log-SNRs l; docs/theory.md, eq. (1). With e over C*H*W
//   z[n,b,e] = sqrt(sigmoid(l_n)) x[b,e] + sqrt(sigmoid(-l_n)) eps(seed, sample_id[n], e)
#pragma once

#include "philox.h"

namespace dpid {

template <typename T>
struct NoisyChannelArgs {
  const T* x;                // [B,E]
  const double* logsnr;      // [N]
  const int64_t* sample_id;  // [N]
  T* z;                      // [N,B,E]
  int64_t N, B, E;
  uint64_t seed;
};

struct MixCoefficients {
  float signal, noise;
};

DPID_INLINE MixCoefficients mix_coefficients(double logsnr) {
  return {static_cast<float>(sqrt(1.0 / (1.0 + exp(-logsnr)))), static_cast<float>(sqrt(1.0 / (1.0 + exp(logsnr))))};
}

// The arithmetic of an element, the same on CPU and GPU.
DPID_INLINE float mix(float x, float eps, MixCoefficients c) { return c.signal * x + c.noise * eps; }

template <typename T>
void noisy_channel_cpu(const NoisyChannelArgs<T>& args, int threads);

template <typename T>
int noisy_channel_cuda(const NoisyChannelArgs<T>& args, void* stream);  // a cudaError_t

// Sets out to the noise of elements [first, first + count) of an image under one sample.
void fill_normal(uint64_t seed, int64_t sample_id, int64_t first, int64_t count, float* out);

}  // namespace dpid
