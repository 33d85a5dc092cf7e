#include <cuda_runtime.h>

#include "noisy_channel.h"

namespace dpid {
namespace {

constexpr int kThreads = 256;

// Four elements as one 16-byte (fp32) or 8-byte (fp16, bf16) word.
template <typename T>
struct alignas(4 * sizeof(T)) Four {
  T v[4];
};

// One row (n, b) a block of the grid's x, one Philox block of four elements a thread. kAligned: E is a multiple of
// four, so that every row starts on a word.
template <typename T, bool kAligned>
__global__ void noisy_channel_kernel(NoisyChannelArgs<T> a, int64_t blocks) {
  const int64_t row = blockIdx.x, n = row / a.B, b = row % a.B;
  const int64_t block = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  __shared__ MixCoefficients shared;
  if (threadIdx.x == 0) shared = mix_coefficients(a.logsnr[n]);
  __syncthreads();
  if (block >= blocks) return;
  const MixCoefficients c = shared;
  const Normals eps = normals4(a.seed, a.sample_id[n], static_cast<uint32_t>(b), static_cast<uint32_t>(block));
  const T* x = a.x + b * a.E + 4 * block;
  T* z = a.z + row * a.E + 4 * block;
  if (kAligned) {
    const Four<T> in = *reinterpret_cast<const Four<T>*>(x);
    Four<T> out;
    for (int lane = 0; lane < 4; ++lane) store(&out.v[lane], mix(to_float(in.v[lane]), eps.v[lane], c));
    *reinterpret_cast<Four<T>*>(z) = out;
  } else {
    for (int lane = 0; lane < 4 && 4 * block + lane < a.E; ++lane) {
      store(z + lane, mix(to_float(x[lane]), eps.v[lane], c));
    }
  }
}

}  // namespace

template <typename T>
int noisy_channel_cuda(const NoisyChannelArgs<T>& args, void* stream) {
  const int64_t blocks = (args.E + 3) / 4, rows = args.N * args.B;
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
