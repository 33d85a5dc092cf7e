// The C++ ops without Python, for AddressSanitizer and UndefinedBehaviorSanitizer (make sanitize): every buffer is
// exactly as large as its shape, so a write or read past it is caught. Values are checked against double arithmetic.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "accumulate.h"
#include "noisy_channel.h"

using namespace dpid;

namespace {

int checks = 0;

void expect(bool ok, const char* what) {
  ++checks;
  if (!ok) {
    std::fprintf(stderr, "failed: %s\n", what);
    std::exit(1);
  }
}

template <typename T>
std::vector<T> filled(int64_t count, uint64_t seed) {
  std::vector<float> wide(static_cast<size_t>(count));
  fill_normal(seed, 0, 0, count, wide.data());
  std::vector<T> out(wide.size());
  for (size_t i = 0; i < wide.size(); ++i) store(&out[i], wide[i]);
  return out;
}

void philox_known_answers() {
  const Philox zero = philox4x32(Philox{{0, 0, 0, 0}}, 0, 0);
  expect(zero.v[0] == 0x6627e8d5u && zero.v[1] == 0xe169c58du && zero.v[2] == 0xbc57ac4cu && zero.v[3] == 0x9b00dbd8u,
         "philox of zeros");
  const uint32_t f = 0xffffffffu;
  const Philox ones = philox4x32(Philox{{f, f, f, f}}, f, f);
  expect(ones.v[0] == 0x408f276du && ones.v[1] == 0x41c83b0eu && ones.v[2] == 0xa20bc7c6u && ones.v[3] == 0x6d5451fdu,
         "philox of ones");
}

// Every fp16 and bf16 value survives the way to fp32 and back; ties round to even.
void half_round_trip() {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const Half h{static_cast<uint16_t>(bits)};
    Half back{};
    store(&back, to_float(h));
    const bool nan = (bits & 0x7fffu) > 0x7c00u;
    expect(nan ? (back.bits & 0x7fffu) > 0x7c00u : back.bits == bits, "fp16 round trip");
    const BFloat16 b{static_cast<uint16_t>(bits)};
    BFloat16 again{};
    store(&again, to_float(b));
    const bool bnan = (bits & 0x7fffu) > 0x7f80u;
    expect(bnan ? (again.bits & 0x7fffu) > 0x7f80u : again.bits == bits, "bf16 round trip");
  }
  Half h{};
  store(&h, 2049.0f);  // between 2048 and 2050: to even
  expect(to_float(h) == 2048.0f, "fp16 tie to even");
  store(&h, 65520.0f);
  expect(std::isinf(to_float(h)), "fp16 overflow");
  store(&h, 0x1p-25f);  // half the smallest subnormal: to even, zero
  expect(to_float(h) == 0.0f, "fp16 underflow");
}

template <typename T>
void channel(int64_t N, int64_t B, int64_t E, int threads, double tolerance) {
  const std::vector<T> x = filled<T>(B * E, 1);
  std::vector<double> logsnr(static_cast<size_t>(N));
  std::vector<int64_t> id(static_cast<size_t>(N));
  for (int64_t n = 0; n < N; ++n) {
    logsnr[static_cast<size_t>(n)] = 2.0 * static_cast<double>(n) - 3.0;
    id[static_cast<size_t>(n)] = n % 2 ? ~n : n;
  }
  std::vector<T> z(static_cast<size_t>(N * B * E));
  noisy_channel_cpu(NoisyChannelArgs<T>{x.data(), logsnr.data(), id.data(), z.data(), N, B, E, 7}, threads);
  for (int64_t n = 0; n < N; ++n) {
    const double a = std::sqrt(1 / (1 + std::exp(-logsnr[static_cast<size_t>(n)]))), b = std::sqrt(1 - a * a);
    for (int64_t i = 0; i < B * E; ++i) {
      const auto block = static_cast<uint32_t>(i % E / 4);
      const double eps = normals4(7, id[static_cast<size_t>(n)], block).v[i % E % 4];
      const double exact = a * to_float(x[static_cast<size_t>(i)]) + b * eps;
      const double got = to_float(z[static_cast<size_t>(n * B * E + i)]);
      expect(std::fabs(got - exact) <= tolerance * (1 + std::fabs(exact)), "noisy_channel");
    }
  }
}

template <typename T>
void sums(int64_t N, int64_t K, int64_t B, int64_t C, int64_t HW, int threads) {
  const std::vector<T> eps_hat = filled<T>(N * K * B * C * HW, 2);
  const int64_t G = 2;
  std::vector<int64_t> pairs, id(static_cast<size_t>(N)), replicate(static_cast<size_t>(N));
  for (int64_t i = 0; i < K; ++i) {
    for (int64_t j = i; j < K; ++j) pairs.insert(pairs.end(), {i, j});
  }
  const auto P = static_cast<int64_t>(pairs.size() / 2);
  for (int64_t n = 0; n < N; ++n) id[static_cast<size_t>(n)] = n % 3 == 1 ? ~(99 + n) : 100 + n;  // a partner, others
  for (int64_t n = 0; n < N; ++n) replicate[static_cast<size_t>(n)] = n % G;
  const std::vector<float> weight(static_cast<size_t>(N), 2.0f);
  std::vector<float> gaps(static_cast<size_t>(G * P * B * HW)), residuals(static_cast<size_t>(G * K * B * HW));
  std::vector<float> squares(static_cast<size_t>(N * (2 * K + P) * B));
  std::vector<float> scratch(static_cast<size_t>(accumulate_scratch_cpu(N, K, P, B, HW)));
  accumulate_cpu(AccumulateArgs<T>{gaps.data(), residuals.data(), squares.data(), scratch.data(), eps_hat.data(),
                                   weight.data(), replicate.data(), pairs.data(), id.data(), N, K, B, C, HW, P, G, 7},
                 threads);
  std::vector<double> exact_squares(squares.size()), sizes(squares.size());  // and the sums of the sizes of their terms
  const auto add = [&](int64_t n, int64_t row, int64_t b, double term) {
    const auto i = static_cast<size_t>((n * (2 * K + P) + row) * B + b);
    exact_squares[i] += term / 2, sizes[i] += std::fabs(term) / 2;
  };
  const auto at = [&](int64_t n, int64_t k, int64_t b, int64_t c, int64_t h) {
    return static_cast<double>(to_float(eps_hat[static_cast<size_t>((((n * K + k) * B + b) * C + c) * HW + h)]));
  };
  for (int64_t g = 0; g < G; ++g) {
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t h = 0; h < HW; ++h) {
        for (int64_t p = 0; p < P; ++p) {
          double exact = 0;
          for (int64_t n = g; n < N; n += G) {
            for (int64_t c = 0; c < C; ++c) {
              const double d = at(n, pairs[static_cast<size_t>(2 * p)], b, c, h) -
                               at(n, pairs[static_cast<size_t>(2 * p + 1)], b, c, h);
              exact += d * d;
              add(n, K + p, b, d * d);
            }
          }
          const double got = gaps[static_cast<size_t>(((g * P + p) * B + b) * HW + h)];
          expect(std::fabs(got - exact) <= 1e-5 * (1 + exact), "gaps");
        }
        for (int64_t k = 0; k < K; ++k) {
          double exact = 0;
          for (int64_t n = g; n < N; n += G) {
            for (int64_t c = 0; c < C; ++c) {
              const int64_t e = c * HW + h;
              const double eps = normals4(7, id[static_cast<size_t>(n)], static_cast<uint32_t>(e / 4)).v[e % 4];
              const double d = eps - at(n, k, b, c, h);
              exact += d * d;
              add(n, k, b, d * d), add(n, K + P + k, b, at(n, k, b, c, h) * d);
            }
          }
          const double got = residuals[static_cast<size_t>(((g * K + k) * B + b) * HW + h)];
          expect(std::fabs(got - exact) <= 1e-5 * (1 + exact), "residuals");
        }
      }
    }
  }
  for (size_t i = 0; i < squares.size(); ++i) {
    // Sixteen squares or products and four channels are added one after another in fp32, each with an error of 2^-24;
    // the rest pairwise or in double.
    expect(std::fabs(squares[i] - exact_squares[i]) <= 2e-6 * sizes[i], "squares");
  }
}

}  // namespace

int main() {
  philox_known_answers();
  half_round_trip();
  for (const int64_t E : {int64_t{1}, int64_t{35}, int64_t{1024}, int64_t{4 * 1025 + 3}}) {
    channel<float>(3, 2, E, 2, 1e-6);
    channel<Half>(2, 1, E, 3, 1e-3);      // one rounding to 11 bits
    channel<BFloat16>(2, 1, E, 1, 8e-3);  // one rounding to 8 bits
  }
  channel<float>(0, 1, 8, 2, 1e-6);
  for (const int64_t HW : {int64_t{1}, int64_t{35}, int64_t{257}, int64_t{6144}}) {
    sums<float>(3, 4, 2, 4, HW, 2);
    sums<Half>(2, 1, 1, 3, HW, 5);
    sums<BFloat16>(2, 3, 1, 1, HW, 1);
  }
  sums<float>(1, 17, 1, 4, 35, 2);
  sums<float>(0, 2, 1, 4, 8, 2);
  std::printf("C++ ops: %d checks passed\n", checks);
  return 0;
}
