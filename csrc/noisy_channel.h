// noisy_channel: z[n,b,e] = signal[n] * x[b,e] + noise[n] * eps(seed, sample_id[n], b, e), e over C*H*W.
#pragma once

#include "philox.h"

namespace dpid {

template <typename T>
struct NoisyChannelArgs {
  const T* x;                // [B,E]
  const float* signal;       // [N] sqrt(sigmoid(logsnr))
  const float* noise;        // [N] sqrt(sigmoid(-logsnr))
  const int64_t* sample_id;  // [N]
  T* z;                      // [N,B,E]
  int64_t N, B, E;
  uint64_t seed;
};

// Per-element arithmetic, the same on every backend: up to four elements of row (n, b) from 4 * block on.
template <typename T>
DPID_INLINE void noisy_channel_block(const NoisyChannelArgs<T>& a, int64_t n, int64_t b, int64_t block) {
  const Normals eps = normals4(a.seed, a.sample_id[n], static_cast<uint32_t>(b), static_cast<uint32_t>(block));
  const T* x = a.x + b * a.E;
  T* z = a.z + (n * a.B + b) * a.E;
  for (int lane = 0; lane < 4; ++lane) {
    const int64_t e = 4 * block + lane;
    if (e < a.E) store(z + e, a.signal[n] * to_float(x[e]) + a.noise[n] * eps.v[lane]);
  }
}

template <typename T>
void noisy_channel_cpu(const NoisyChannelArgs<T>& args, int threads);

template <typename T>
int noisy_channel_cuda(const NoisyChannelArgs<T>& args, void* stream);  // a cudaError_t

// Normals of one sample and one image, elements [first, first + count), into out (fp32).
void fill_normal(uint64_t seed, int64_t sample_id, uint32_t image, int64_t first, int64_t count, float* out);

}  // namespace dpid
