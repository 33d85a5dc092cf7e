#include "accumulate.h"
#include "noisy_channel.h"

namespace dpid {
namespace {

constexpr int64_t kTile = 256;    // pixels a work item: rows of 1 KiB stay in L1
constexpr int64_t kChannels = 4;  // channels taken together: their squares are summed in registers

DPID_MULTIVERSION void widen(const Half* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}
DPID_MULTIVERSION void widen(const BFloat16* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}

// kChannels rows of one tile, as fp32.
using Rows = const float* const*;

// total += scale * sum over `channels` rows of (a - b)^2.
DPID_MULTIVERSION void add_squares(Rows a, Rows b, int64_t channels, float scale, int64_t count, float* total) {
  if (channels == kChannels) {
    const float *a0 = a[0], *a1 = a[1], *a2 = a[2], *a3 = a[3], *b0 = b[0], *b1 = b[1], *b2 = b[2], *b3 = b[3];
    for (int64_t i = 0; i < count; ++i) {
      total[i] += scale * (squared_difference(a0[i], b0[i]) + squared_difference(a1[i], b1[i]) +
                           squared_difference(a2[i], b2[i]) + squared_difference(a3[i], b3[i]));
    }
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t i = 0; i < count; ++i) total[i] += scale * squared_difference(a[c][i], b[c][i]);
  }
}

// fp32 is read where it is; other types are widened into `scratch`, which the row then is.
inline const float* row_of(const float* from, int64_t, float*) { return from; }
template <typename T>
const float* row_of(const T* from, int64_t count, float* scratch) {
  widen(from, count, scratch);
  return scratch;
}

struct Scratch {
  std::vector<float> eps_hat, eps;  // [K, kChannels, kTile], [C, kTile]
  std::vector<const float*> rows;   // [K + 1, kChannels]: of every condition, then of the noise
};

// The noise of one sample, all channels. A sample that follows its antithetic partner takes the noise that is there.
template <typename T>
void take_noise(const AccumulateArgs<T>& a, int64_t n, int64_t b, int64_t h, int64_t count, std::vector<float>& eps) {
  if (n > 0 && a.sample_id[n] == ~a.sample_id[n - 1]) {
    for (float& value : eps) value = -value;
    return;
  }
  for (int64_t c = 0; c < a.C; ++c) {
    fill_normal(a.seed, a.sample_id[n], static_cast<uint32_t>(b), c * a.HW + h, count, eps.data() + c * kTile);
  }
}

// One sample, one image, pixels [h, h + count).
template <typename T>
void add_sample(const AccumulateArgs<T>& a, int64_t n, int64_t b, int64_t h, int64_t count, Scratch& scratch) {
  const float half_weight = 0.5f * a.weight[n];
  const int64_t g = a.replicate[n];
  const auto rows = [&](int64_t k) { return scratch.rows.data() + k * kChannels; };
  take_noise(a, n, b, h, count, scratch.eps);
  for (int64_t first = 0; first < a.C; first += kChannels) {
    const int64_t channels = std::min(kChannels, a.C - first);
    for (int64_t c = 0; c < channels; ++c) {
      rows(a.K)[c] = scratch.eps.data() + (first + c) * kTile;
      for (int64_t k = 0; k < a.K; ++k) {
        const T* from = a.eps_hat + (((n * a.K + k) * a.B + b) * a.C + first + c) * a.HW + h;
        rows(k)[c] = row_of(from, count, scratch.eps_hat.data() + (k * kChannels + c) * kTile);
      }
    }
    for (int64_t k = 0; k < a.K; ++k) {
      float* to = a.residuals + ((g * a.K + k) * a.B + b) * a.HW + h;
      add_squares(rows(a.K), rows(k), channels, half_weight, count, to);
    }
    for (int64_t p = 0; p < a.P; ++p) {
      float* to = a.gaps + ((g * a.P + p) * a.B + b) * a.HW + h;
      add_squares(rows(a.pairs[2 * p]), rows(a.pairs[2 * p + 1]), channels, half_weight, count, to);
    }
  }
}

}  // namespace

template <typename T>
void accumulate_cpu(const AccumulateArgs<T>& a, int threads) {
  const int64_t tiles = (a.HW + kTile - 1) / kTile;
  parallel_for(a.B * tiles, a.N * a.K * a.B * a.C * a.HW, threads, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    scratch.eps_hat.resize(static_cast<size_t>(a.K * kChannels * kTile));
    scratch.eps.resize(static_cast<size_t>(a.C * kTile));
    scratch.rows.resize(static_cast<size_t>((a.K + 1) * kChannels));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / tiles, h = item % tiles * kTile;
      for (int64_t n = 0; n < a.N; ++n) add_sample(a, n, b, h, std::min(kTile, a.HW - h), scratch);
    }
  });
}

template void accumulate_cpu(const AccumulateArgs<float>&, int);
template void accumulate_cpu(const AccumulateArgs<Half>&, int);
template void accumulate_cpu(const AccumulateArgs<BFloat16>&, int);

}  // namespace dpid
