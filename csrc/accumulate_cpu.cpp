#include "accumulate.h"
#include "noisy_channel.h"

namespace dpid {
namespace {

constexpr int64_t kTile = 256;  // pixels a work item: K rows of 1 KiB stay in L1

DPID_MULTIVERSION void widen(const float* from, int64_t count, float* to) { std::copy(from, from + count, to); }
DPID_MULTIVERSION void widen(const Half* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}
DPID_MULTIVERSION void widen(const BFloat16* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}

DPID_MULTIVERSION void add_squares(const float* a, const float* b, int64_t count, float* sum) {
  for (int64_t i = 0; i < count; ++i) sum[i] += squared_difference(a[i], b[i]);
}

DPID_MULTIVERSION void add_scaled(const float* sum, float scale, int64_t count, float* total) {
  for (int64_t i = 0; i < count; ++i) total[i] += scale * sum[i];
}

// One sample, one image, pixels [h, h + count): scratch holds K rows of eps_hat, one of eps, K + P sums.
template <typename T>
void add_sample(const AccumulateArgs<T>& a, int64_t n, int64_t b, int64_t h, int64_t count,
                std::vector<float>& scratch) {
  float* eps_hat = scratch.data();
  float* eps = eps_hat + a.K * kTile;
  float* sums = eps + kTile;
  std::fill(sums, sums + (a.K + a.P) * kTile, 0.0f);
  for (int64_t c = 0; c < a.C; ++c) {
    fill_normal(a.seed, a.sample_id[n], static_cast<uint32_t>(b), c * a.HW + h, count, eps);
    for (int64_t k = 0; k < a.K; ++k) {
      widen(a.eps_hat + (((n * a.K + k) * a.B + b) * a.C + c) * a.HW + h, count, eps_hat + k * kTile);
      add_squares(eps, eps_hat + k * kTile, count, sums + k * kTile);
    }
    for (int64_t p = 0; p < a.P; ++p) {
      add_squares(eps_hat + a.pairs[2 * p] * kTile, eps_hat + a.pairs[2 * p + 1] * kTile, count,
                  sums + (a.K + p) * kTile);
    }
  }
  const float half_weight = 0.5f * a.weight[n];
  const int64_t g = a.replicate[n];
  for (int64_t k = 0; k < a.K; ++k) {
    add_scaled(sums + k * kTile, half_weight, count, a.residuals + ((g * a.K + k) * a.B + b) * a.HW + h);
  }
  for (int64_t p = 0; p < a.P; ++p) {
    add_scaled(sums + (a.K + p) * kTile, half_weight, count, a.gaps + ((g * a.P + p) * a.B + b) * a.HW + h);
  }
}

}  // namespace

template <typename T>
void accumulate_cpu(const AccumulateArgs<T>& a, int threads) {
  const int64_t tiles = (a.HW + kTile - 1) / kTile;
  parallel_for(a.B * tiles, a.N * a.K * a.B * a.C * a.HW, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>((2 * a.K + a.P + 1) * kTile));
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
