// The Python module dpid._C. Arguments are passed by name, and dtypes and shapes of tensors are checked; the caller,
// dpid.ops.compiled, makes sure that tensors are contiguous and on the right device. The GIL is released while a kernel
// runs.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#ifdef DPID_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

#include "accumulate.h"
#include "noisy_channel.h"
#include "view.h"

namespace py = pybind11;
using namespace dpid;

namespace {

template <typename Call>
void dispatch(DType dtype, const Call& call) {
  switch (dtype) {
    case DType::kFloat32:
      return call(float{});
    case DType::kFloat16:
      return call(Half{});
    case DType::kBFloat16:
      return call(BFloat16{});
    default:
      throw std::invalid_argument("expected float32, float16 or bfloat16");
  }
}

#ifdef DPID_HAS_CUDA
void check(int status) {
  if (status != 0) {
    throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(static_cast<cudaError_t>(status)));
  }
}
#else
void refuse_cuda(int threads) {
  if (threads < 0) throw std::runtime_error("CUDA: not in this build");
}
#endif

// std::invalid_argument unless all values are in [0, stop). For the CPU only: on a GPU it would make the host wait.
void check_range(const char* name, const int64_t* values, int64_t count, int64_t stop) {
  const auto [low, high] = std::minmax_element(values, values + count);
  if (count > 0 && (*low < 0 || *high >= stop)) {
    throw std::invalid_argument(std::string(name) + ": found values " + std::to_string(*low) + "…" +
                                std::to_string(*high) + ", allowed are 0…" + std::to_string(stop - 1));
  }
}

// threads < 0 launches on the CUDA stream `stream`.
void noisy_channel(const View& x, const View& logsnr, const View& sample_id, const View& z, uint64_t seed, int threads,
                   [[maybe_unused]] uintptr_t stream) {
  const int64_t N = logsnr.shape[0], B = x.shape[0], C = x.shape[1], H = x.shape[2], W = x.shape[3];
  dispatch(x.dtype, [&](auto type) {
    using T = decltype(type);
    const NoisyChannelArgs<T> args{expect<const T>("x", x, {B, C, H, W}),
                                   expect<const double>("logsnr", logsnr, {N}),
                                   expect<const int64_t>("sample_id", sample_id, {N}),
                                   expect<T>("z", z, {N, B, C, H, W}),
                                   N,
                                   B,
                                   C * H * W,
                                   seed};
#ifdef DPID_HAS_CUDA
    if (threads < 0) return check(noisy_channel_cuda(args, reinterpret_cast<void*>(stream)));
#else
    refuse_cuda(threads);
#endif
    noisy_channel_cpu(args, threads);
  });
}

// The number of elements of the scratch memory of accumulate.
int64_t accumulate_scratch(const View& eps_hat, const View& pairs, int threads) {
  const auto& [N, K, B, C, H, W] = eps_hat.shape;
#ifdef DPID_HAS_CUDA
  if (threads < 0) return accumulate_scratch_cuda(N, K, B, H * W);
#else
  refuse_cuda(threads);
#endif
  return accumulate_scratch_cpu(N, K, pairs.shape[0], B, H * W);
}

void accumulate(const View& gaps, const View& residuals, const View& squares, const View& scratch, const View& eps_hat,
                const View& weight, const View& replicate, const View& pairs, const View& sample_id, uint64_t seed,
                int threads, [[maybe_unused]] uintptr_t stream) {
  const auto& [n, k, b, c, h, w] = eps_hat.shape;
  const int64_t N = n, K = k, B = b, C = c, H = h, W = w;  // lambdas cannot capture structured bindings in C++17
  const int64_t P = pairs.shape[0], G = gaps.shape[0], S = accumulate_scratch(eps_hat, pairs, threads);
  dispatch(eps_hat.dtype, [&](auto type) {
    using E = decltype(type);
    const AccumulateArgs<E> args{expect<float>("gaps", gaps, {G, P, B, H, W}),
                                 expect<float>("residuals", residuals, {G, K, B, H, W}),
                                 expect<float>("squares", squares, {N, 2 * K + P, B}),
                                 expect<float>("scratch", scratch, {S}),
                                 expect<const E>("eps_hat", eps_hat, {N, K, B, C, H, W}),
                                 expect<const float>("weight", weight, {N}),
                                 expect<const int64_t>("replicate", replicate, {N}),
                                 expect<const int64_t>("pairs", pairs, {P, 2}),
                                 expect<const int64_t>("sample_id", sample_id, {N}),
                                 N,
                                 K,
                                 B,
                                 C,
                                 H * W,
                                 P,
                                 G,
                                 seed};
#ifdef DPID_HAS_CUDA
    if (threads < 0) return check(accumulate_cuda(args, reinterpret_cast<void*>(stream)));
#endif
    check_range("pairs", args.pairs, 2 * P, K);
    check_range("replicate", args.replicate, N, G);
    accumulate_cpu(args, threads);
  });
}

// Sets out [n,4] to the random words of counter [n,4] and key [n,2], on the CPU.
void philox(const View& counter, const View& key, const View& out) {
  const int64_t n = counter.shape[0];
  const auto* c = expect<const uint32_t>("counter", counter, {n, 4});
  const auto* k = expect<const uint32_t>("key", key, {n, 2});
  auto* to = expect<uint32_t>("out", out, {n, 4});
  for (int64_t i = 0; i < n; ++i) {
    const Philox words =
        philox4x32(Philox{{c[4 * i], c[4 * i + 1], c[4 * i + 2], c[4 * i + 3]}}, k[2 * i], k[2 * i + 1]);
    std::copy(words.v, words.v + 4, to + 4 * i);
  }
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled ops of dpid; call them through dpid.ops.";
#ifdef DPID_HAS_CUDA
  m.attr("has_cuda") = true;
  m.attr("cuda_architectures") = DPID_CUDA_ARCHITECTURES;
#else
  m.attr("has_cuda") = false;
  m.attr("cuda_architectures") = "";
#endif
  using py::literals::operator""_a;
  const auto nogil = py::call_guard<py::gil_scoped_release>();
  m.def("noisy_channel", &noisy_channel, nogil, py::kw_only(), "x"_a, "logsnr"_a, "sample_id"_a, "z"_a, "seed"_a,
        "threads"_a, "stream"_a);
  m.def("accumulate_scratch", &accumulate_scratch, py::kw_only(), "eps_hat"_a, "pairs"_a, "threads"_a);
  m.def("accumulate", &accumulate, nogil, py::kw_only(), "gaps"_a, "residuals"_a, "squares"_a, "scratch"_a, "eps_hat"_a,
        "weight"_a, "replicate"_a, "pairs"_a, "sample_id"_a, "seed"_a, "threads"_a, "stream"_a);
  m.def("philox4x32", &philox, py::kw_only(), "counter"_a, "key"_a, "out"_a);
}
