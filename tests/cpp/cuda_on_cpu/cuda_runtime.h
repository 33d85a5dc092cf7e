// As much of CUDA as the ops need, on a CPU: a thread of a block is a thread, blocks run one after
// another, barriers are barriers, asynchronous copies happen as late or as early as they may. For tests without a GPU.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __shared__
#define __align__(n)
#define __launch_bounds__(...)

using std::max;
using std::min;
using cudaError_t = int;
using cudaStream_t = void*;
enum {
  cudaSuccess = 0,
  cudaErrorInvalidConfiguration = 9,
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};

struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
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
struct Warp {
  std::barrier<> barrier{32};
  std::array<uint64_t, 32> values[2];  // what threads show each other, in turns, so that one barrier is enough
};
struct Block {
  std::barrier<> barrier;
  std::atomic<bool> found;  // what is asked for once
};
inline thread_local Warp* warp;
inline thread_local Block* block;
inline thread_local int turn;

// What all threads of the warp show, of which this one shows `value`.
template <typename T>
const std::array<uint64_t, 32>& show(unsigned lane, T value) {
  std::array<uint64_t, 32>& all = warp->values[turn ^= 1];
  std::memcpy(&all[lane], &value, sizeof(T));
  warp->barrier.arrive_and_wait();
  return all;
}

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "FAILED: %s\n", what);
  std::exit(1);
}
}  // namespace emulated

inline thread_local dim3 blockIdx, blockDim, threadIdx;

inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
inline cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 1 : emulated::most;
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, int, int) {
  return cudaSuccess;
}
struct cudaFuncAttributes {};
template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
  return cudaSuccess;
}
inline void __syncwarp() { emulated::warp->barrier.arrive_and_wait(); }
inline void __syncthreads() { emulated::block->barrier.arrive_and_wait(); }
inline bool __syncthreads_or(bool mine) {
  if (mine) emulated::block->found = true;
  __syncthreads();
  return emulated::block->found;
}

// Every thread of a warp gets the value of the thread `from`.
template <typename T>
T __shfl_sync(unsigned, T value, int from) {
  std::memcpy(&value, &emulated::show(threadIdx.x % 32, value)[static_cast<size_t>(from)], sizeof(T));
  return value;
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x % 32) ^ bits);
}
inline unsigned __ballot_sync(unsigned, bool mine) {
  const std::array<uint64_t, 32>& shown = emulated::show(threadIdx.x % 32, uint64_t{mine});
  unsigned all = 0;
  for (size_t i = 0; i < 32; ++i) all |= static_cast<unsigned>(shown[i]) << i;
  return all;
}
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline void atomicAdd(float* to, float value) {
  *to += value;
}  // not atomic: two threads that add to one value are a race

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* launch, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  const unsigned threads = launch->blockDim.x, blocks = launch->gridDim.x * launch->gridDim.y * launch->gridDim.z;
  if (launch->dynamicSmemBytes > static_cast<size_t>(emulated::most) || threads % 32) {
    return cudaErrorInvalidConfiguration;
  }
  for (unsigned i = 0; i < blocks; ++i) {
    std::memset(emulated::shared, 0xff, emulated::kMost);  // NaN, to be written before it is read
    emulated::Block all{std::barrier<>(threads), false};
    std::vector<emulated::Warp> warps(threads / 32);
    std::vector<std::thread> running;
    for (unsigned t = 0; t < threads; ++t) {
      running.emplace_back([&, t] {
        blockIdx = dim3(i % launch->gridDim.x, i / launch->gridDim.x % launch->gridDim.y,
                        i / launch->gridDim.x / launch->gridDim.y);
        blockDim = launch->blockDim;
        threadIdx = dim3(t, 0, 0);
        emulated::block = &all;
        emulated::warp = &warps[t / 32];
        kernel(arguments...);
        emulated::warp->barrier.arrive_and_drop();
        all.barrier.arrive_and_drop();
      });
    }
    for (std::thread& thread : running) thread.join();
  }
  return cudaSuccess;
}
