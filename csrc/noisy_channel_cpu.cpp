#include "noisy_channel.h"

namespace dpid {
namespace {

constexpr int64_t kChunk = 1024;  // elements a work item: its 4 KiB of noise stay in the L1 cache

// Sets out to the noise of blocks [first, first + count) of an image; without branches, to be vectorised over i.
DPID_MULTIVERSION void normal_blocks(uint64_t seed, int64_t sample_id, uint32_t first, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const Normals n = normals4(seed, sample_id, first + static_cast<uint32_t>(i));
    out[4 * i] = n.v[0];
    out[4 * i + 1] = n.v[1];
    out[4 * i + 2] = n.v[2];
    out[4 * i + 3] = n.v[3];
  }
}

template <typename T>
DPID_INLINE void mix_row(const T* x, const float* eps, MixCoefficients c, int64_t count, T* z) {
  for (int64_t i = 0; i < count; ++i) store(z + i, mix(to_float(x[i]), eps[i], c));
}

// target_clones does not apply to templates, hence one function for each element type.
DPID_MULTIVERSION void mix_rows(const float* x, const float* eps, MixCoefficients c, int64_t count, float* z) {
  mix_row(x, eps, c, count, z);
}
DPID_MULTIVERSION void mix_rows(const Half* x, const float* eps, MixCoefficients c, int64_t count, Half* z) {
  mix_row(x, eps, c, count, z);
}
DPID_MULTIVERSION void mix_rows(const BFloat16* x, const float* eps, MixCoefficients c, int64_t count, BFloat16* z) {
  mix_row(x, eps, c, count, z);
}

}  // namespace

void fill_normal(uint64_t seed, int64_t sample_id, int64_t first, int64_t count, float* out) {
  // Blocks of four start at multiples of four: a request may begin and end inside one.
  float buffer[kChunk + 8];
  while (count > 0) {
    const int64_t block = first / 4, skip = first % 4;
    const int64_t take = std::min(count, kChunk);
    normal_blocks(seed, sample_id, static_cast<uint32_t>(block), (skip + take + 3) / 4, buffer);
    std::copy(buffer + skip, buffer + skip + take, out);
    first += take;
    out += take;
    count -= take;
  }
}

template <typename T>
void noisy_channel_cpu(const NoisyChannelArgs<T>& a, int threads) {
  const int64_t chunks = (a.E + kChunk - 1) / kChunk;
  parallel_for(a.N * chunks, a.N * a.B * a.E, threads, [&](int64_t begin, int64_t end) {
    float eps[kChunk];
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / chunks, e = item % chunks * kChunk, count = std::min(kChunk, a.E - e);
      fill_normal(a.seed, a.sample_id[n], e, count, eps);
      const MixCoefficients c = mix_coefficients(a.logsnr[n]);
      for (int64_t b = 0; b < a.B; ++b) {
        mix_rows(a.x + b * a.E + e, eps, c, count, a.z + (n * a.B + b) * a.E + e);
      }
    }
  });
}

template void noisy_channel_cpu(const NoisyChannelArgs<float>&, int);
template void noisy_channel_cpu(const NoisyChannelArgs<Half>&, int);
template void noisy_channel_cpu(const NoisyChannelArgs<BFloat16>&, int);

}  // namespace dpid
