// The CUDA kernel of accumulate on an emulated device against the CPU's, which the Python tests hold to float64. Under
// ThreadSanitizer a barrier that is missing is a race that is seen.
#include "cuda_runtime.h"

namespace dpid {
namespace {
alignas(16) unsigned char memory[emulated::kMost];  // what the kernel calls its shared memory
}
}  // namespace dpid

#include <cmath>
#include <random>

#include "../../csrc/accumulate_cuda.cu"

using namespace dpid;

namespace {

struct Case {
  int64_t N, K, B, C, HW, G;
  int64_t every = 1;   // of all pairs one in so many
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
  for (int64_t n = 0; n < c.N; ++n) {
    id.push_back(n % 2 ? ~(n / 2 + 5) : n / 2 + 5);
    replicate.push_back(c.apart ? n % c.G : n / 2 % c.G);
  }
  const auto P = static_cast<int64_t>(pairs.size() / 2);
  const std::vector<float> weight(static_cast<size_t>(c.N), 1.5f);
  std::vector<float> gaps = normal(c.G * P * c.B * c.HW, random), residuals = normal(c.G * c.K * c.B * c.HW, random);
  std::vector<float> exact_gaps = gaps, exact_residuals = residuals;
  int64_t count = 0;
  if (accumulate_tiles_cuda<T>(c.K, P, c.HW, &count) != cudaSuccess) emulated::fail("tiles");
  const auto sums = static_cast<size_t>(c.N * (c.K + P) * c.B);
  const float nan = std::nanf("");  // to be written before it is read
  std::vector<float> squares(sums, nan), exact_squares(sums, nan), tiles(sums * static_cast<size_t>(count), nan);
  std::vector<float> exact_tiles(sums * static_cast<size_t>(accumulate_tiles_cpu(c.HW)), nan);
  AccumulateArgs<T> args{gaps.data(),
                         residuals.data(),
                         squares.data(),
                         tiles.data(),
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
  args.squares = exact_squares.data(), args.tiles = exact_tiles.data();
  accumulate_cpu(args, 1);
  // Channels and pixels may be added in other portions: a few roundings of fp32, 2^-24 each, of sums of positive terms.
  close(gaps, exact_gaps, 2e-6f, "gaps");
  close(residuals, exact_residuals, 2e-6f, "residuals");
  close(squares, exact_squares, 2e-6f, "squares");
}

void all() {
  compare<float>({.N = 8, .K = 4, .B = 1, .C = 4, .HW = 64, .G = 2});
  compare<Half>({.N = 8, .K = 4, .B = 2, .C = 4, .HW = 144, .G = 2, .every = 2});
  compare<BFloat16>({.N = 6, .K = 5, .B = 1, .C = 5, .HW = 20, .G = 2, .apart = true});
  compare<float>({.N = 4, .K = 3, .B = 1, .C = 16, .HW = 160, .G = 1});
  compare<float>({.N = 3, .K = 9, .B = 2, .C = 3, .HW = 35, .G = 2});                  // rows that start on no word
  compare<Half>({.N = 4, .K = 4, .B = 1, .C = 4, .HW = 64, .G = 1, .offset = 1});      // the same
  compare<float>({.N = 3, .K = 17, .B = 1, .C = 6, .HW = 36, .G = 2, .most = 14000});  // fewer channels at once
  compare<float>({.N = 2, .K = 256, .B = 1, .C = 4, .HW = 32, .G = 1, .every = 97});   // eight concepts
  compare<float>({.N = 2, .K = 256, .B = 1, .C = 4, .HW = 24, .G = 1, .every = 97, .most = 1 << 16});  // on a T4
}

}  // namespace

int main() {
  emulated::shared = dpid::memory;
  for (const bool late : {false, true}) {
    emulated::late = late;
    all();
  }
  std::puts("accumulate on an emulated GPU: ok");
}
