// Common to all ops: the host/device qualifier, element types and their conversion, and a parallel loop.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#define DPID_INLINE __host__ __device__ __forceinline__
#else
#define DPID_INLINE inline __attribute__((always_inline))
#endif

// Compiles a CPU function once per instruction set; one is chosen when the library is loaded, too early for sanitizers.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(DPID_SANITIZE)
#if __GNUC__ >= 12
#define DPID_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else  // which knows no levels here
#define DPID_MULTIVERSION __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
#define DPID_MULTIVERSION
#endif

namespace dpid {

enum class DType : int { kFloat32, kFloat16, kBFloat16, kFloat64, kInt64, kUInt32 };

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Four elements as one word of 16 bytes (fp32) or 8 (fp16, bf16).
template <typename T>
struct alignas(4 * sizeof(T)) Four {
  T v[4];
};

template <typename To, typename From>
DPID_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

DPID_INLINE float to_float(float v) { return v; }

DPID_INLINE float to_float(BFloat16 v) { return bit_cast<float>(static_cast<uint32_t>(v.bits) << 16); }

DPID_INLINE float to_float(Half v) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(v.bits));  // the same value in one instruction
#else
  const uint32_t magnitude = static_cast<uint32_t>(v.bits & 0x7fffu) << 13;
  // The multiplication changes the exponent's bias, also of subnormals; Inf and NaN need their exponent set.
  const float scaled = bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000u) << 16;
  return bit_cast<float>(bit_cast<uint32_t>(scaled) | special | sign);
#endif
}

DPID_INLINE void store(float* to, float v) { *to = v; }

DPID_INLINE void store(BFloat16* to, float v) {
  const uint32_t bits = bit_cast<uint32_t>(v);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  // Round to nearest even; a NaN stays one.
  to->bits = static_cast<uint16_t>(nan ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

DPID_INLINE void store(Half* to, float v) {
  const uint32_t bits = bit_cast<uint32_t>(v);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Normal: rebias and round to nearest even. Subnormal: let float addition do the rounding.
  const uint32_t normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t infinite = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t half = magnitude >= 0x47800000u ? infinite : (magnitude < 0x38800000u ? subnormal : normal);
  to->bits = static_cast<uint16_t>(half | sign);
}

// Calls body(begin, end) for parts of [0, count) on up to `threads` threads, fewer if `work` (the number of elements)
// is too little to pay for waking them. Results do not depend on the number of threads, since every item is computed by
// one thread. OpenMP is used because torch uses its pool too; threads of another pool would compete for the cores.
template <typename Body>
void parallel_for(int64_t count, [[maybe_unused]] int64_t work, [[maybe_unused]] int threads, const Body& body) {
#ifdef _OPENMP
  constexpr int64_t kWorkPerThread = 16384;  // tens of microseconds, several times what waking a thread costs
  const int64_t workers = std::min<int64_t>({std::max<int64_t>(threads, 1), count, 1 + work / kWorkPerThread});
  if (workers > 1) {
#pragma omp parallel num_threads(static_cast<int>(workers))
    {
      const int64_t w = omp_get_thread_num(), all = omp_get_num_threads();
      body(count * w / all, count * (w + 1) / all);
    }
    return;
  }
#endif
  if (count > 0) body(0, count);
}

}  // namespace dpid
