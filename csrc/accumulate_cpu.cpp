#include "accumulate.h"
#include "noisy_channel.h"

namespace dpid {
namespace {

constexpr int64_t kTile = 256;    // pixels a work item: its rows of 1 KiB stay in the L1 cache
constexpr int64_t kChannels = 4;  // channels taken together: their squares are summed in registers
constexpr int64_t kLanes = 16;    // partial sums over pixels, added up at the end
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

DPID_MULTIVERSION void widen(const Half* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}
DPID_MULTIVERSION void widen(const BFloat16* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}

// kChannels rows of one tile, as fp32.
using Rows = const float* const*;

// The sum of the first kCount lanes, by halves. Were their lengths not constants, all would go through memory.
template <int64_t kCount = kLanes>
DPID_INLINE float add_lanes(Lanes lanes) {
  if constexpr (kCount == 1) {
    return lanes[0];
  } else {
    for (int64_t i = 0; i < kCount / 2; ++i) lanes[i] += lanes[i + kCount / 2];
    return add_lanes<kCount / 2>(lanes);
  }
}

// Adds scale * s to total, s = sum over kCount rows of (a - b)^2 at every pixel, and the sum of s over pixels to
// square; with kProduct also that of b * (a - b) to product. Lanes are explicit since a compiler that may not reorder
// additions does not vectorise these sums.
template <int kCount, bool kProduct>
DPID_INLINE void add_rows(Rows a, Rows b, float scale, int64_t count, float* total, float* square, float* product) {
  const float *left[kCount], *right[kCount];  // copies: the compiler need not expect writes to total to change them
  std::copy(a, a + kCount, left);
  std::copy(b, b + kCount, right);
  Lanes squares = {}, products = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Lanes s = {}, t = {};
    for (int c = 0; c < kCount; ++c) {
      const Lanes r = *reinterpret_cast<const Lanes*>(right[c] + i);
      const Lanes d = *reinterpret_cast<const Lanes*>(left[c] + i) - r;
      s += d * d;
      if (kProduct) t += r * d;
    }
    *reinterpret_cast<Lanes*>(total + i) += scale * s;
    squares += s, products += t;
  }
  for (; i < count; ++i) {
    float s = 0.0f;
    for (int c = 0; c < kCount; ++c) {
      const float d = left[c][i] - right[c][i];
      s += d * d;
      if (kProduct) products[i % kLanes] += right[c][i] * d;
    }
    total[i] += scale * s;
    squares[i % kLanes] += s;
  }
  *square += add_lanes(squares);
  if (kProduct) *product += add_lanes(products);
}

template <bool kProduct>
DPID_INLINE void add_channels(Rows a, Rows b, int64_t channels, float scale, int64_t count, float* total, float* square,
                              float* product) {
  if (channels == kChannels) return add_rows<kChannels, kProduct>(a, b, scale, count, total, square, product);
  for (int64_t c = 0; c < channels; ++c) {
    add_rows<1, kProduct>(a + c, b + c, scale, count, total, square, product);
  }
}

DPID_MULTIVERSION void add_gap(Rows a, Rows b, int64_t channels, float scale, int64_t count, float* total,
                               float* square) {
  add_channels<false>(a, b, channels, scale, count, total, square, nullptr);
}

DPID_MULTIVERSION void add_residual(Rows eps, Rows eps_hat, int64_t channels, float scale, int64_t count, float* total,
                                    float* square, float* product) {
  add_channels<true>(eps, eps_hat, channels, scale, count, total, square, product);
}

// The row as fp32: `from` itself, or for other types a copy in `scratch`.
inline const float* row_of(const float* from, int64_t, float*) { return from; }
template <typename T>
const float* row_of(const T* from, int64_t count, float* scratch) {
  widen(from, count, scratch);
  return scratch;
}

struct Scratch {
  std::vector<float> eps_hat, eps;  // [K, kChannels, kTile] if widened, [C, kTile]
  std::vector<const float*> rows;   // [K + 1, kChannels]: of every condition, then of the noise
};

// Sets eps to the noise of one sample, all channels. If the sample before is its antithetic partner, eps is negated.
template <typename T>
void set_noise(const AccumulateArgs<T>& a, int64_t n, int64_t h, int64_t count, std::vector<float>& eps) {
  if (n > 0 && a.sample_id[n] == ~a.sample_id[n - 1]) {
    for (float& value : eps) value = -value;
    return;
  }
  for (int64_t c = 0; c < a.C; ++c) {
    fill_normal(a.seed, a.sample_id[n], c * a.HW + h, count, eps.data() + c * kTile);
  }
}

// Adds one sample of one image at pixels [h, h + count), one tile, and sets squares[(2K + P) * B] to the tile's sums.
template <typename T>
void add_sample(const AccumulateArgs<T>& a, int64_t n, int64_t b, int64_t h, int64_t count, Scratch& scratch,
                float* squares) {
  const float half_weight = 0.5f * a.weight[n];
  const int64_t g = a.replicate[n];
  const auto rows = [&](int64_t k) { return scratch.rows.data() + k * kChannels; };
  for (int64_t row = 0; row < a.rows(); ++row) squares[row * a.B] = 0.0f;
  set_noise(a, n, h, count, scratch.eps);
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
      add_residual(rows(a.K), rows(k), channels, half_weight, count, to, squares + k * a.B,
                   squares + (a.K + a.P + k) * a.B);
    }
    for (int64_t p = 0; p < a.P; ++p) {
      float* to = a.gaps + ((g * a.P + p) * a.B + b) * a.HW + h;
      const auto left = rows(a.pairs[2 * p]), right = rows(a.pairs[2 * p + 1]);
      add_gap(left, right, channels, half_weight, count, to, squares + (a.K + p) * a.B);
    }
  }
}

}  // namespace

int64_t accumulate_scratch_cpu(int64_t N, int64_t K, int64_t P, int64_t B, int64_t HW) {
  return (HW + kTile - 1) / kTile * N * (2 * K + P) * B;
}

template <typename T>
void accumulate_cpu(const AccumulateArgs<T>& a, int threads) {
  const int64_t tiles = (a.HW + kTile - 1) / kTile, sums = a.rows() * a.B;
  parallel_for(a.B * tiles, a.N * a.K * a.B * a.C * a.HW, threads, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    scratch.eps_hat.resize(static_cast<size_t>(a.K * kChannels * kTile));
    scratch.eps.resize(static_cast<size_t>(a.C * kTile));
    scratch.rows.resize(static_cast<size_t>((a.K + 1) * kChannels));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / tiles, tile = item % tiles, h = tile * kTile;
      for (int64_t n = 0; n < a.N; ++n) {
        add_sample(a, n, b, h, std::min(kTile, a.HW - h), scratch, a.scratch + (tile * a.N + n) * sums + b);
      }
    }
  });
  for (int64_t i = 0; i < a.N * sums; ++i) {
    double total = 0.0;  // since there may be thousands of tiles
    for (int64_t tile = 0; tile < tiles; ++tile) total += a.scratch[tile * a.N * sums + i];
    a.squares[i] = static_cast<float>(0.5 * total);
  }
}

template void accumulate_cpu(const AccumulateArgs<float>&, int);
template void accumulate_cpu(const AccumulateArgs<Half>&, int);
template void accumulate_cpu(const AccumulateArgs<BFloat16>&, int);

}  // namespace dpid
