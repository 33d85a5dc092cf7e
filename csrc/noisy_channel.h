// noisy_channel: z[n,b,e] = sqrt(sigmoid(l_n)) x[b,e] + sqrt(sigmoid(-l_n)) eps(seed, sample_id[n], b, e), e over
// C*H*W.
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

// Per-element arithmetic, the same on CPU and GPU.
DPID_INLINE float mix(float x, float eps, MixCoefficients c) { return c.signal * x + c.noise * eps; }

template <typename T>
void noisy_channel_cpu(const NoisyChannelArgs<T>& args, int threads);

template <typename T>
int noisy_channel_cuda(const NoisyChannelArgs<T>& args, void* stream);  // a cudaError_t

// Normals of one sample and one image, elements [first, first + count), into out (fp32).
void fill_normal(uint64_t seed, int64_t sample_id, uint32_t image, int64_t first, int64_t count, float* out);

}  // namespace dpid
