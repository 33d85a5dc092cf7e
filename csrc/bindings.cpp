// Table of contents of dpid._C. Pointers arrive as integers and are trusted: dpid.ops.native has checked shapes,
// dtypes and devices. The GIL is released while a kernel runs.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#ifdef DPID_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

#include "accumulate.h"
#include "noisy_channel.h"

namespace py = pybind11;
using namespace dpid;

namespace {

template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

template <typename Call>
void dispatch(int dtype, const Call& call) {
  switch (static_cast<DType>(dtype)) {
    case DType::kFloat32:
      return call(float{});
    case DType::kFloat16:
      return call(Half{});
    case DType::kBFloat16:
      return call(BFloat16{});
  }
  throw std::invalid_argument("dtype code " + std::to_string(dtype) + " is unknown");
}

#ifdef DPID_HAS_CUDA
void check(int status) {
  if (status != 0) {
    throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(static_cast<cudaError_t>(status)));
  }
}
#endif

// threads < 0 launches on the CUDA stream `stream`.
void noisy_channel(uintptr_t x, uintptr_t logsnr, uintptr_t sample_id, uintptr_t z, int64_t N, int64_t B, int64_t E,
                   uint64_t seed, int dtype, int threads, [[maybe_unused]] uintptr_t stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    const NoisyChannelArgs<T> args{pointer<const T>(x),
                                   pointer<const double>(logsnr),
                                   pointer<const int64_t>(sample_id),
                                   pointer<T>(z),
                                   N,
                                   B,
                                   E,
                                   seed};
#ifdef DPID_HAS_CUDA
    if (threads < 0) return check(noisy_channel_cuda(args, pointer<void>(stream)));
#endif
    noisy_channel_cpu(args, threads);
  });
}

void accumulate(uintptr_t gaps, uintptr_t residuals, uintptr_t eps_hat, uintptr_t weight, uintptr_t replicate,
                uintptr_t pairs, uintptr_t sample_id, int64_t N, int64_t K, int64_t B, int64_t C, int64_t HW, int64_t P,
                int64_t G, uint64_t seed, int dtype, int threads, [[maybe_unused]] uintptr_t stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    const AccumulateArgs<T> args{pointer<float>(gaps),
                                 pointer<float>(residuals),
                                 pointer<const T>(eps_hat),
                                 pointer<const float>(weight),
                                 pointer<const int64_t>(replicate),
                                 pointer<const int64_t>(pairs),
                                 pointer<const int64_t>(sample_id),
                                 N,
                                 K,
                                 B,
                                 C,
                                 HW,
                                 P,
                                 G,
                                 seed};
#ifdef DPID_HAS_CUDA
    if (threads < 0) return check(accumulate_cuda(args, pointer<void>(stream)));
#endif
    accumulate_cpu(args, threads);
  });
}

// counter [n,4], key [n,2] -> [n,4], rows of addresses of contiguous uint32.
void philox(uintptr_t counter, uintptr_t key, uintptr_t out, int64_t n) {
  const auto* c = pointer<const uint32_t>(counter);
  const auto* k = pointer<const uint32_t>(key);
  for (int64_t i = 0; i < n; ++i) {
    const Philox words =
        philox4x32(Philox{{c[4 * i], c[4 * i + 1], c[4 * i + 2], c[4 * i + 3]}}, k[2 * i], k[2 * i + 1]);
    std::copy(words.v, words.v + 4, pointer<uint32_t>(out) + 4 * i);
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
  const auto nogil = py::call_guard<py::gil_scoped_release>();
  m.def("noisy_channel", &noisy_channel, nogil);
  m.def("accumulate", &accumulate, nogil);
  m.def("philox4x32", &philox, nogil);
}
