// The CUDA kernels on an emulated device against the CPU's, which the Python tests hold to float64. Under
// ThreadSanitizer a barrier that is missing is a race that is seen.
#include "cuda_runtime.h"

namespace dpid {
namespace {
alignas(16) unsigned char memory[emulated::kMost];  // what the kernels call their shared memory
}
}  // namespace dpid

#include <cmath>
#include <random>

#include "../../csrc/accumulate_cuda.cu"
#include "../../csrc/noisy_channel_cuda.cu"

using namespace dpid;

namespace {

struct Case {
  int64_t N, K, B, C, HW, G;
  int64_t every = 1;   // of all pairs one in so many
  bool odd = false;    // also pairs of the last condition, twice and the other way round, and with itself if K <= 8
  bool apart = false;  // antithetic partners in different replicates
  int64_t offset = 0;  // of eps_hat from a word, in elements
  int most = emulated::kMost;
};

std::vector<float> normal(int64_t count, std::mt19937& random) {
  std::normal_distribution<float> distribution;
  std::vector<float> out(static_cast<size_t>(count));
  for (float& value : out) value = distribution(random);
  return out;
}

void close(const std::vector<float>& got, const std::vector<float>& exact, float tolerance, const char* what) {
  for (size_t i = 0; i < got.size(); ++i) {
    if (!(std::fabs(got[i] - exact[i]) <= tolerance * (1 + std::fabs(exact[i])))) emulated::fail(what);
  }
}

template <typename T>
void compare(const Case& c) {
  emulated::most = c.most;
  std::mt19937 random(1);
  alignas(16) static T eps_hat[1 << 17];
  const std::vector<float> drawn = normal(c.N * c.K * c.B * c.C * c.HW, random);
  for (size_t i = 0; i < drawn.size(); ++i) store(eps_hat + c.offset + i, drawn[i]);
  std::vector<int64_t> pairs, id, replicate;
  for (int64_t i = 0; i < c.K; ++i) {
    for (int64_t j = i + 1; j < c.K; ++j) {
      if ((7 * i + j) % c.every == 0) pairs.insert(pairs.end(), {j, i});
    }
  }
  for (int64_t i = 0; c.odd && i < std::min(c.K, int64_t{8}); ++i) {
    pairs.insert(pairs.end(), {i, c.K - 1, c.K - 1, i});
  }
  for (int64_t n = 0; n < c.N; ++n) {
    id.push_back(n % 2 ? ~(n / 2 + 5) : n / 2 + 5);
    replicate.push_back(c.apart ? n % c.G : n / 2 % c.G);
  }
  const auto P = static_cast<int64_t>(pairs.size() / 2);
  const std::vector<float> weight(static_cast<size_t>(c.N), 1.5f);
  std::vector<float> gaps = normal(c.G * P * c.B * c.HW, random), residuals = normal(c.G * c.K * c.B * c.HW, random);
  std::vector<float> exact_gaps = gaps, exact_residuals = residuals;
  const auto sums = static_cast<size_t>(c.N * (2 * c.K + P) * c.B);
  const float nan = std::nanf("");  // to be written before it is read
  std::vector<float> squares(sums, nan), exact_squares(sums, nan);
  std::vector<float> scratch(static_cast<size_t>(accumulate_scratch_cuda(c.N, c.K, c.B, c.HW)), nan);
  std::vector<float> exact_scratch(static_cast<size_t>(accumulate_scratch_cpu(c.N, c.K, P, c.B, c.HW)), nan);
  AccumulateArgs<T> args{gaps.data(),
                         residuals.data(),
                         squares.data(),
                         scratch.data(),
                         eps_hat + c.offset,
                         weight.data(),
                         replicate.data(),
                         pairs.data(),
                         id.data(),
                         c.N,
                         c.K,
                         c.B,
                         c.C,
                         c.HW,
                         P,
                         c.G,
                         7};
  if (accumulate_cuda(args, nullptr) != cudaSuccess) emulated::fail("launch");
  args.gaps = exact_gaps.data(), args.residuals = exact_residuals.data();
  args.squares = exact_squares.data(), args.scratch = exact_scratch.data();
  accumulate_cpu(args, 1);
  // Channels and pixels may be added in other portions: a few roundings of fp32, 2^-24 each, of sums of positive terms,
  // or of products eps_hat (eps - eps_hat) whose mean is -1, as large as they are, since eps_hat knows nothing of the
  // noise.
  close(gaps, exact_gaps, 2e-6f, "gaps");
  close(residuals, exact_residuals, 2e-6f, "residuals");
  close(squares, exact_squares, 2e-6f, "squares");
}

// The arithmetic is the same on both, and so is every bit.
template <typename T>
void channel(int64_t N, int64_t B, int64_t E, int64_t offset = 0) {
  std::mt19937 random(1);
  alignas(16) static T x[1 << 11];
  const std::vector<float> drawn = normal(B * E, random);
  for (size_t i = 0; i < drawn.size(); ++i) store(x + offset + i, drawn[i]);
  std::vector<double> logsnr;
  std::vector<int64_t> id;
  for (int64_t n = 0; n < N; ++n) {
    logsnr.push_back(0.5 * static_cast<double>(n) - 3);
    id.push_back(n % 3 == 1 ? ~(n - 1) : n);  // partners, also across blocks
  }
  std::vector<T> z(static_cast<size_t>(N * B * E)), exact = z;  // an allocator aligns to 16 bytes
  if (noisy_channel_cuda(NoisyChannelArgs<T>{x + offset, logsnr.data(), id.data(), z.data(), N, B, E, 7}, nullptr)) {
    emulated::fail("launch");
  }
  noisy_channel_cpu(NoisyChannelArgs<T>{x + offset, logsnr.data(), id.data(), exact.data(), N, B, E, 7}, 1);
  if (std::memcmp(z.data(), exact.data(), z.size() * sizeof(T)) != 0) emulated::fail("noisy_channel");
}

void all() {
  channel<float>(17, 1, 4 * 300);  // more samples than a block has at once
  channel<Half>(5, 3, 68);
  channel<BFloat16>(1, 2, 4);
  channel<float>(4, 2, 35);
  channel<Half>(3, 1, 64, 1);
  compare<float>({.N = 4, .K = 4, .B = 1, .C = 4, .HW = 64, .G = 2});
  compare<Half>({.N = 4, .K = 4, .B = 2, .C = 4, .HW = 144, .G = 2, .every = 2});
  compare<BFloat16>({.N = 6, .K = 5, .B = 1, .C = 5, .HW = 20, .G = 2, .apart = true});
  compare<float>({.N = 4, .K = 3, .B = 1, .C = 16, .HW = 100, .G = 1, .odd = true});
  compare<float>({.N = 2, .K = 1, .B = 1, .C = 40, .HW = 4, .G = 1});  // more channels than noise is kept of
  compare<float>({.N = 34, .K = 2, .B = 1, .C = 1, .HW = 4, .G = 3});  // more samples than threads of a warp
  compare<float>({.N = 3, .K = 9, .B = 1, .C = 3, .HW = 35, .G = 2});  // rows that start on no word
  compare<Half>({.N = 2, .K = 4, .B = 1, .C = 4, .HW = 64, .G = 1, .offset = 1});  // the same
  compare<Half>({.N = 2, .K = 16, .B = 1, .C = 4, .HW = 68, .G = 1});              // most warps that a block can have
  // Several parts, of which one is not needed, on a T4.
  compare<float>({.N = 2, .K = 18, .B = 1, .C = 3, .HW = 8, .G = 1, .every = 97, .odd = true, .most = 1 << 16});
}

}  // namespace

int main() {
  emulated::shared = dpid::memory;
  for (const bool late : {false, true}) {
    emulated::late = late;
    all();
  }
  std::puts("ops on an emulated GPU: ok");
}
