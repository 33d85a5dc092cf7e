#include <cuda_pipeline.h>
#include <cuda_runtime.h>

#include "accumulate.h"

namespace dpid {
namespace {

constexpr int kChannels = 4;  // taken together: their squares are summed in a register
constexpr int kRows = 36;     // residuals and gaps of a block: those of K = 8 with all pairs

// Four pixels of one channel as one 16-byte (fp32) or 8-byte (fp16, bf16) word.
template <typename T>
struct alignas(4 * sizeof(T)) Four {
  T v[4];
};

// The two conditions of a row of sums; the noise is condition -1.
struct Pair {
  int left, right;
};

// Dynamic shared memory of a block: lines[kRows], noise[kChannels][threads], sums[rows][threads] and, twice, for this
// step and the next one, words[kChannels][K][threads].
template <typename T>
struct Shared {
  Pair* lines;
  float *noise, *sums;
  T* words;

  __device__ Shared(unsigned char* memory, int rows)
      : lines(reinterpret_cast<Pair*>(memory)),
        noise(reinterpret_cast<float*>(lines + kRows)),
        sums(noise + kChannels * blockDim.x),
        words(reinterpret_cast<T*>(sums + rows * blockDim.x)) {}

  static int64_t bytes(int64_t threads, int64_t K, int64_t rows) {
    const int64_t pixel = (kChannels + rows) * sizeof(float) + 2 * kChannels * K * sizeof(T);
    return kRows * static_cast<int64_t>(sizeof(Pair)) + threads * pixel;
  }
};

// The first sample from n on that belongs to replicate g.
template <typename T>
__device__ int64_t next_sample(const AccumulateArgs<T>& a, int64_t g, int64_t n) {
  while (n < a.N && a.replicate[n] != g) ++n;
  return n;
}

// Starts the copy of channels c … c + count - 1 of all conditions of sample n. Of four neighbours each brings one
// channel of all four pixels.
template <typename T, bool kAligned>
__device__ void fetch(const AccumulateArgs<T>& a, T* words, int64_t n, int64_t b, int64_t c, int count, int64_t h) {
  const int lane = threadIdx.x % 4;
  if (h >= a.HW) return;
  for (int64_t k = 0; k < a.K; ++k) {
    const T* from = a.eps_hat + (((n * a.K + k) * a.B + b) * a.C + c) * a.HW + h;
    T* to = words + k * blockDim.x + threadIdx.x;
    if constexpr (!kAligned) {
      for (int i = 0; i < count; ++i) to[i * a.K * blockDim.x] = from[i * a.HW];
    } else if (lane < count) {
      __pipeline_memcpy_async(to - lane + lane * a.K * blockDim.x, from - lane + lane * a.HW, sizeof(Four<T>));
    }
  }
}

// The noise of `count` channels from c on of this thread's pixel h. Of four neighbours each makes one channel of all
// four pixels, which are one Philox block.
template <typename T, bool kAligned>
__device__ void take_noise(const AccumulateArgs<T>& a, float* shared, int64_t id, int64_t b, int64_t c, int count,
                           int64_t h, float (&noise)[kChannels]) {
  const auto image = static_cast<uint32_t>(b);
  if constexpr (kAligned) {
    const int lane = threadIdx.x % 4;
    const int64_t e = (c + lane) * a.HW + h - lane;
    const Normals eps = normals4(a.seed, id, image, static_cast<uint32_t>(e / 4));
    *reinterpret_cast<Four<float>*>(shared + lane * blockDim.x + threadIdx.x - lane) =
        Four<float>{eps.v[0], eps.v[1], eps.v[2], eps.v[3]};
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kChannels; ++i) noise[i] = shared[i * blockDim.x + threadIdx.x];
  } else {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int64_t e = (c + i) * a.HW + h;
      const Normals eps = normals4(a.seed, id, image, static_cast<uint32_t>(e / 4));
      const int lane = static_cast<int>(e % 4);
      noise[i] = lane < 2 ? (lane ? eps.v[1] : eps.v[0]) : (lane == 2 ? eps.v[2] : eps.v[3]);
    }
  }
}

// A block owns blockDim.x pixels of one image and one replicate, a thread one of them, and kRows of the K residuals and
// P gaps. It walks the samples of its replicate in order while the next ones are on their way: eps_hat is read once
// (once for every kRows), no sum is shared between threads, no atomics, the same result at every launch. Only four
// neighbours exchange what they bring, so that no more than a warp has to wait.
template <typename T, bool kAligned>
__global__ void accumulate_kernel(AccumulateArgs<T> a) {
  extern __shared__ __align__(16) unsigned char memory[];
  const int64_t h = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t b = blockIdx.y, g = blockIdx.z % a.G, first = blockIdx.z / a.G * kRows;
  const int rows = static_cast<int>(min(static_cast<int64_t>(kRows), a.K + a.P - first));
  const Shared<T> shared(memory, rows);
  int64_t n = next_sample(a, g, 0), c = 0;
  if (n == a.N) return;

  // Where the sums of a row are in memory.
  const auto place = [&](int64_t row) {
    return row < a.K ? a.residuals + ((g * a.K + row) * a.B + b) * a.HW + h
                     : a.gaps + ((g * a.P + row - a.K) * a.B + b) * a.HW + h;
  };
  for (int row = threadIdx.x; row < rows; row += blockDim.x) {
    const int64_t p = first + row - a.K;
    shared.lines[row] = p < 0 ? Pair{-1, static_cast<int>(first + row)}
                              : Pair{static_cast<int>(a.pairs[2 * p]), static_cast<int>(a.pairs[2 * p + 1])};
  }
  float* sums = shared.sums + threadIdx.x;
  for (int row = 0; row < rows; ++row) sums[row * blockDim.x] = h < a.HW ? *place(first + row) : 0.0f;
  __syncthreads();

  const auto count_at = [&](int64_t c) { return static_cast<int>(min(static_cast<int64_t>(kChannels), a.C - c)); };
  const int64_t half = kChannels * a.K * blockDim.x;
  float noise[kChannels] = {}, left[kChannels] = {};
  int64_t kept = 0, kept_channel = -1;  // whose noise that is
  fetch<T, kAligned>(a, shared.words, n, b, c, count_at(c), h);
  __pipeline_commit();
  for (int buffer = 0; n < a.N; buffer ^= 1) {
    const bool same = c + kChannels < a.C;
    const int64_t next_n = same ? n : next_sample(a, g, n + 1), next_c = same ? c + kChannels : 0;
    __syncwarp();  // the neighbours have read what is overwritten now
    if (next_n < a.N) {
      fetch<T, kAligned>(a, shared.words + (buffer ^ 1) * half, next_n, b, next_c, count_at(next_c), h);
    }
    __pipeline_commit();
    __pipeline_wait_prior(1);
    __syncwarp();
    const T* words = shared.words + buffer * half + threadIdx.x;
    const int count = count_at(c);
    const float scale = 0.5f * a.weight[n];
    if (first < a.K) {
      const int64_t id = a.sample_id[n];
      if (id == ~kept && kept_channel == c) {  // the antithetic partner of the last one
        for (float& value : noise) value = -value;
      } else {
        take_noise<T, kAligned>(a, shared.noise, id, b, c, count, h, noise);
      }
      kept = id, kept_channel = c;
    }
    int loaded = -1;
    for (int row = 0; row < rows; ++row) {
      const Pair line = shared.lines[row];
      if (line.left != loaded) {
#pragma unroll
        for (int i = 0; i < kChannels; ++i) {
          if (i < count) left[i] = to_float(words[(i * a.K + line.left) * blockDim.x]);
        }
        loaded = line.left;
      }
      const bool residual = line.left < 0;
      float total = 0.0f;
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        if (i < count) {
          const float right = to_float(words[(i * a.K + line.right) * blockDim.x]);
          total += squared_difference(residual ? noise[i] : left[i], right);
        }
      }
      sums[row * blockDim.x] += scale * total;
    }
    n = next_n, c = next_c;
  }
  if (h >= a.HW) return;
  for (int row = 0; row < rows; ++row) *place(first + row) = sums[row * blockDim.x];
}

}  // namespace

template <typename T>
int accumulate_cuda(const AccumulateArgs<T>& a, void* stream) {
  if (a.N * a.B * a.HW == 0) return cudaSuccess;
  const bool aligned = a.HW % 4 == 0 && reinterpret_cast<uintptr_t>(a.eps_hat) % alignof(Four<T>) == 0;
  auto* kernel = aligned ? accumulate_kernel<T, true> : accumulate_kernel<T, false>;
  int device = 0, most = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)) return error;
  // Small blocks, so that a multiprocessor holds several; a block of many conditions is smaller still.
  int64_t threads = 128, rows = std::min<int64_t>(kRows, a.K + a.P);
  while (threads > 32 && Shared<T>::bytes(threads, a.K, rows) > most / 4) threads /= 2;
  const int64_t bytes = Shared<T>::bytes(threads, a.K, rows);
  if (bytes > most) return cudaErrorInvalidConfiguration;
  const auto size = static_cast<int>(bytes);
  if (cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, size)) return error;
  const int64_t parts = (a.K + a.P + kRows - 1) / kRows;
  const dim3 grid(static_cast<unsigned>((a.HW + threads - 1) / threads), static_cast<unsigned>(a.B),
                  static_cast<unsigned>(a.G * parts));
  kernel<<<grid, static_cast<unsigned>(threads), size, static_cast<cudaStream_t>(stream)>>>(a);
  return cudaGetLastError();
}

template int accumulate_cuda(const AccumulateArgs<float>&, void*);
template int accumulate_cuda(const AccumulateArgs<Half>&, void*);
template int accumulate_cuda(const AccumulateArgs<BFloat16>&, void*);

}  // namespace dpid
