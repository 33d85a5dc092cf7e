#include <cuda_runtime.h>

#include <type_traits>

#include "noisy_channel.h"

namespace dpid {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 6;      // about as many blocks as a multiprocessor holds at once
constexpr int kMostPairs = 32;  // of samples, of a block

// Four elements; only the first `count` exist. kAligned: all do, as one word.
template <bool kAligned, typename T>
__device__ Four<T> load(const T* from, int count) {
  if constexpr (kAligned) return *reinterpret_cast<const Four<T>*>(from);
  Four<T> four = {};
  for (int lane = 0; lane < 4; ++lane) {
    if (lane < count) four.v[lane] = from[lane];
  }
  return four;
}

template <bool kAligned, typename T>
__device__ void store(T* to, const Four<T>& four, int count) {
  if constexpr (kAligned) {
    // Of a struct nvcc makes four small stores, of a type of its own one.
    using Word = std::conditional_t<sizeof(T) == 4, uint4, uint2>;
    *reinterpret_cast<Word*>(to) = bit_cast<Word>(four);
  } else {
    for (int lane = 0; lane < 4; ++lane) {
      if (lane < count) to[lane] = four.v[lane];
    }
  }
}

// A thread computes one Philox block, the noise of four elements of all images, for `samples` samples after each other.
// If one is the antithetic partner of the one before, the noise is only negated. kAligned: E is a multiple of four.
template <typename T, bool kAligned>
__global__ void __launch_bounds__(kThreads) noisy_channel_kernel(NoisyChannelArgs<T> a, int samples) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto* coefficients = reinterpret_cast<MixCoefficients*>(memory);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * samples;
  const int64_t e = 4 * (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x);
  const int count = static_cast<int>(min(static_cast<int64_t>(samples), a.N - first)), thread = threadIdx.x;
  const int lanes = static_cast<int>(min(int64_t{4}, a.E - e));
  if (thread < count) coefficients[thread] = mix_coefficients(a.logsnr[first + thread]);
  Normals eps = {};
  int64_t before = 0;
  for (int i = 0; i < count; ++i) {
    const int64_t id = a.sample_id[first + i];
    if (i > 0 && id == ~before) {
      for (float& value : eps.v) value = -value;
    } else {
      eps = normals4(a.seed, id, static_cast<uint32_t>(e / 4));
    }
    before = id;
    if (i == 0) {
      __syncthreads();  // so late that the other warps have noise when the first has the coefficients
      if (lanes <= 0) return;
    }
    const MixCoefficients c = coefficients[i];
    const T* x = a.x + e;
    T* z = a.z + (first + i) * a.B * a.E + e;
#pragma unroll 1
    for (int64_t b = 0; b < a.B; ++b, x += a.E, z += a.E) {
      const Four<T> in = load<kAligned>(x, lanes);
      Four<T> out;
      for (int lane = 0; lane < 4; ++lane) dpid::store(&out.v[lane], mix(to_float(in.v[lane]), eps.v[lane], c));
      store<kAligned>(z, out, lanes);
    }
  }
}

}  // namespace

template <typename T>
int noisy_channel_cuda(const NoisyChannelArgs<T>& args, void* stream) {
  const int64_t columns = (args.E + 4 * kThreads - 1) / (4 * kThreads), pairs = (args.N + 1) / 2;
  if (columns * pairs * args.B == 0) return cudaSuccess;
  int device = 0, processors = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device)) return error;
  // As many samples a block as let all blocks run at once.
  const int64_t together = processors * kBlocks;
  const int64_t samples = 2 * std::min<int64_t>((columns * pairs + together - 1) / together, kMostPairs);
  cudaLaunchConfig_t launch = {};
  launch.gridDim = dim3(static_cast<unsigned>((args.N + samples - 1) / samples), static_cast<unsigned>(columns));
  launch.blockDim = dim3(kThreads);
  launch.dynamicSmemBytes = static_cast<size_t>(samples) * sizeof(MixCoefficients);
  launch.stream = static_cast<cudaStream_t>(stream);
  const bool aligned = args.E % 4 == 0 && reinterpret_cast<uintptr_t>(args.x) % alignof(Four<T>) == 0;
  return cudaLaunchKernelEx(&launch, aligned ? noisy_channel_kernel<T, true> : noisy_channel_kernel<T, false>, args,
                            static_cast<int>(samples));
}

template int noisy_channel_cuda(const NoisyChannelArgs<float>&, void*);
template int noisy_channel_cuda(const NoisyChannelArgs<Half>&, void*);
template int noisy_channel_cuda(const NoisyChannelArgs<BFloat16>&, void*);

}  // namespace dpid
