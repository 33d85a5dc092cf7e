#include <cuda_runtime.h>

#include "accumulate.h"

namespace dpid {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kSharedBytes = 48 * 1024;  // what every architecture gives without asking

// 16 bytes of T.
template <typename T>
struct alignas(16) Word {
  static constexpr int kSize = 16 / sizeof(T);
  T v[kSize];
};

// One block of the grid owns `tile` pixels of one image and walks all samples in order: eps_hat is read once, no sum is
// shared between blocks, no atomics, the same result at every launch. In shared memory: values[K + 1][tile], the K
// conditions and the noise of one channel; sums[K + P][tile]. kAligned: rows of HW start on 16-byte words.
template <typename T, bool kAligned>
__global__ void accumulate_kernel(AccumulateArgs<T> a, int tile) {
  extern __shared__ float values[];
  float* sums = values + (a.K + 1) * tile;
  const int64_t b = blockIdx.y, first = static_cast<int64_t>(blockIdx.x) * tile;
  const int count = static_cast<int>(min(static_cast<int64_t>(tile), a.HW - first));
  const int K = static_cast<int>(a.K), rows = static_cast<int>(a.K + a.P);
  for (int64_t n = 0; n < a.N; ++n) {
    for (int i = threadIdx.x; i < rows * tile; i += kThreads) sums[i] = 0.0f;
    for (int64_t c = 0; c < a.C; ++c) {
      __syncthreads();  // the sums of the last channel have been read from values
      const T* eps_hat = a.eps_hat + ((n * a.K * a.B + b) * a.C + c) * a.HW + first;
      const int64_t stride = a.B * a.C * a.HW;  // from one condition to the next
      if (kAligned) {
        constexpr int kSize = Word<T>::kSize;
        const int words = count / kSize;  // HW and tile are multiples of kSize
        for (int i = threadIdx.x; i < K * words; i += kThreads) {
          const int k = i / words, w = i % words;
          const Word<T> word = *reinterpret_cast<const Word<T>*>(eps_hat + k * stride + w * kSize);
          for (int j = 0; j < kSize; ++j) values[k * tile + w * kSize + j] = to_float(word.v[j]);
        }
      } else {
        for (int i = threadIdx.x; i < K * count; i += kThreads) {
          values[i / count * tile + i % count] = to_float(eps_hat[i / count * stride + i % count]);
        }
      }
      const int64_t start = c * a.HW + first, end = start + count;
      for (int64_t block = start / 4 + threadIdx.x; 4 * block < end; block += kThreads) {
        const Normals eps = normals4(a.seed, a.sample_id[n], static_cast<uint32_t>(b), static_cast<uint32_t>(block));
        for (int lane = 0; lane < 4; ++lane) {
          const int64_t e = 4 * block + lane;
          if (e >= start && e < end) values[K * tile + (e - start)] = eps.v[lane];
        }
      }
      __syncthreads();
      for (int i = threadIdx.x; i < rows * count; i += kThreads) {
        const int row = i / count, h = i % count;
        const int64_t left = row < K ? K : a.pairs[2 * (row - K)], right = row < K ? row : a.pairs[2 * (row - K) + 1];
        sums[row * tile + h] += squared_difference(values[left * tile + h], values[right * tile + h]);
      }
    }
    // The loop above gave each (row, pixel) to one thread, and this one gives it to the same.
    const float half_weight = 0.5f * a.weight[n];
    const int64_t g = a.replicate[n];
    for (int i = threadIdx.x; i < rows * count; i += kThreads) {
      const int row = i / count, h = i % count;
      float* to =
          row < K ? a.residuals + ((g * a.K + row) * a.B + b) * a.HW : a.gaps + ((g * a.P + row - K) * a.B + b) * a.HW;
      to[first + h] += half_weight * sums[row * tile + h];
    }
    __syncthreads();  // before the sums are cleared
  }
}

}  // namespace

template <typename T>
int accumulate_cuda(const AccumulateArgs<T>& a, void* stream) {
  if (a.N * a.B * a.HW == 0) return cudaSuccess;
  const int64_t row_bytes = (2 * a.K + a.P + 1) * static_cast<int64_t>(sizeof(float));
  int tile = 64;  // pixels a block: two full sectors of eps_hat a row, and blocks enough to fill a GPU
  while (tile > 8 && tile * row_bytes > kSharedBytes) tile /= 2;
  if (tile * row_bytes > kSharedBytes) return cudaErrorInvalidConfiguration;
  const dim3 grid(static_cast<unsigned>((a.HW + tile - 1) / tile), static_cast<unsigned>(a.B));
  const bool aligned = a.HW % Word<T>::kSize == 0 && reinterpret_cast<uintptr_t>(a.eps_hat) % 16 == 0;
  auto* kernel = aligned ? accumulate_kernel<T, true> : accumulate_kernel<T, false>;
  kernel<<<grid, kThreads, static_cast<size_t>(tile * row_bytes), static_cast<cudaStream_t>(stream)>>>(a, tile);
  return cudaGetLastError();
}

template int accumulate_cuda(const AccumulateArgs<float>&, void*);
template int accumulate_cuda(const AccumulateArgs<Half>&, void*);
template int accumulate_cuda(const AccumulateArgs<BFloat16>&, void*);

}  // namespace dpid
