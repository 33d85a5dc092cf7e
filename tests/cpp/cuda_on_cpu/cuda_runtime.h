// As much of CUDA as the kernel of accumulate needs, on a CPU: a thread of a block is a thread, blocks run one after
// another, barriers are barriers, asynchronous copies happen as late or as early as they may. For tests without a GPU.
#pragma once

#include <algorithm>
#include <barrier>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __shared__
#define __align__(n)

using std::min;
using cudaError_t = int;
using cudaStream_t = void*;
enum {
  cudaSuccess = 0,
  cudaErrorInvalidConfiguration = 9,
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace emulated {
constexpr int kMost = 232448;  // bytes of shared memory of a block, as an H100 has
inline int most = kMost;       // of the device that is emulated
inline bool late;              // when asynchronous copies happen: when they are waited for, or at once
inline unsigned char* shared;  // of the block that runs

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};
inline thread_local std::vector<Copy> open;
inline thread_local std::deque<std::vector<Copy>> committed;
inline thread_local std::barrier<>*warp, *block;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "FAILED: %s\n", what);
  std::exit(1);
}
}  // namespace emulated

inline thread_local dim3 blockIdx, blockDim, threadIdx;

inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
  *value = emulated::most;
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, int, int) {
  return cudaSuccess;
}
inline void __syncwarp() { emulated::warp->arrive_and_wait(); }
inline void __syncthreads() { emulated::block->arrive_and_wait(); }

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* launch, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  const unsigned threads = launch->blockDim.x, blocks = launch->gridDim.x * launch->gridDim.y * launch->gridDim.z;
  if (launch->dynamicSmemBytes > static_cast<size_t>(emulated::most) || threads % std::min(threads, 32U)) {
    return cudaErrorInvalidConfiguration;
  }
  for (unsigned i = 0; i < blocks; ++i) {
    std::memset(emulated::shared, 0xff, emulated::kMost);  // NaN, to be written before it is read
    std::barrier<> all(threads);
    std::vector<std::unique_ptr<std::barrier<>>> warps;
    for (unsigned w = 0; w < threads; w += 32) {
      warps.push_back(std::make_unique<std::barrier<>>(std::min(threads, 32U)));
    }
    std::vector<std::thread> running;
    for (unsigned t = 0; t < threads; ++t) {
      running.emplace_back([&, t] {
        blockIdx = dim3(i % launch->gridDim.x, i / launch->gridDim.x % launch->gridDim.y,
                        i / launch->gridDim.x / launch->gridDim.y);
        blockDim = launch->blockDim;
        threadIdx = dim3(t, 0, 0);
        emulated::block = &all;
        emulated::warp = warps[t / 32].get();
        kernel(arguments...);
        emulated::warp->arrive_and_drop();
        all.arrive_and_drop();
      });
    }
    for (std::thread& thread : running) thread.join();
  }
  return cudaSuccess;
}
