#include <cuda_runtime.h>

#include "noisy_channel.h"

namespace dpid {
namespace {

constexpr int kThreads = 256;

// A thread computes one Philox block, four elements of one image, under two samples: if the second is the antithetic
// partner of the first, the noise is only negated. kAligned: E is a multiple of four, so that every row is aligned.
template <typename T, bool kAligned>
__global__ void noisy_channel_kernel(NoisyChannelArgs<T> a, int64_t blocks) {
  const int64_t first = blockIdx.x / a.B * 2, b = blockIdx.x % a.B;
  const int64_t block = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  const int count = static_cast<int>(min(int64_t{2}, a.N - first));
  __shared__ MixCoefficients coefficients[2];
  if (threadIdx.x < count) coefficients[threadIdx.x] = mix_coefficients(a.logsnr[first + threadIdx.x]);
  __syncthreads();
  if (block >= blocks) return;
  const T* x = a.x + b * a.E + 4 * block;
  Four<T> in = {};
  if (kAligned) {
    in = *reinterpret_cast<const Four<T>*>(x);
  } else {
    for (int lane = 0; lane < 4 && 4 * block + lane < a.E; ++lane) in.v[lane] = x[lane];
  }
  Normals eps;
  for (int i = 0; i < count; ++i) {
    const int64_t n = first + i, id = a.sample_id[n];
    if (i == 1 && id == ~a.sample_id[first]) {
      for (float& value : eps.v) value = -value;
    } else {
      eps = normals4(a.seed, id, static_cast<uint32_t>(block));
    }
    Four<T> out;
    for (int lane = 0; lane < 4; ++lane) store(&out.v[lane], mix(to_float(in.v[lane]), eps.v[lane], coefficients[i]));
    T* z = a.z + (n * a.B + b) * a.E + 4 * block;
    if (kAligned) {
      *reinterpret_cast<Four<T>*>(z) = out;
    } else {
      for (int lane = 0; lane < 4 && 4 * block + lane < a.E; ++lane) z[lane] = out.v[lane];
    }
  }
}

}  // namespace

template <typename T>
int noisy_channel_cuda(const NoisyChannelArgs<T>& args, void* stream) {
  const int64_t blocks = (args.E + 3) / 4, rows = (args.N + 1) / 2 * args.B;
  if (rows * blocks == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>((blocks + kThreads - 1) / kThreads));
  const bool aligned = args.E % 4 == 0 && reinterpret_cast<uintptr_t>(args.x) % alignof(Four<T>) == 0;
  auto* kernel = aligned ? noisy_channel_kernel<T, true> : noisy_channel_kernel<T, false>;
  kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args, blocks);
  return cudaGetLastError();
}

template int noisy_channel_cuda(const NoisyChannelArgs<float>&, void*);
template int noisy_channel_cuda(const NoisyChannelArgs<Half>&, void*);
template int noisy_channel_cuda(const NoisyChannelArgs<BFloat16>&, void*);

}  // namespace dpid
