#include <cuda_runtime.h>

#include "noisy_channel.h"

namespace dpid {
namespace {

// One thread a block of four elements; z rows are contiguous, so stores coalesce.
template <typename T>
__global__ void noisy_channel_kernel(NoisyChannelArgs<T> args, int64_t blocks) {
  const int64_t total = args.N * args.B * blocks;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += stride) {
    const int64_t row = i / blocks;
    noisy_channel_block(args, row / args.B, row % args.B, i % blocks);
  }
}

}  // namespace

template <typename T>
int noisy_channel_cuda(const NoisyChannelArgs<T>& args, void* stream) {
  const int64_t blocks = (args.E + 3) / 4, total = args.N * args.B * blocks;
  if (total == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>(std::min<int64_t>((total + 255) / 256, 1 << 20));
  noisy_channel_kernel<T><<<grid, 256, 0, static_cast<cudaStream_t>(stream)>>>(args, blocks);
  return cudaGetLastError();
}

template int noisy_channel_cuda(const NoisyChannelArgs<float>&, void*);
template int noisy_channel_cuda(const NoisyChannelArgs<Half>&, void*);
template int noisy_channel_cuda(const NoisyChannelArgs<BFloat16>&, void*);

}  // namespace dpid
