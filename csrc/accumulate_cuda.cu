#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>

#include "accumulate.h"

namespace dpid {
namespace {

constexpr int kChannels = 4;  // most channels taken together: their squares are summed in a register
constexpr int kRows = 36;     // most residuals and gaps of a block, enough for K = 8 with all pairs

// The two conditions whose difference is summed in a row; -1 is the noise.
struct Pair {
  int left, right;
};

// The dynamic shared memory of a block: pairs[kRows], noise[kChannels][threads], sums[rows][threads] over samples,
// squares[rows][threads] of the current sample, and eps_hat[channels][K][threads] twice, for this step and the next.
template <typename T>
struct Shared {
  Pair* pairs;
  float *noise, *sums, *squares;
  T* eps_hat;

  __device__ Shared(unsigned char* memory, int rows)
      : pairs(reinterpret_cast<Pair*>(memory)),
        noise(reinterpret_cast<float*>(pairs + kRows)),
        sums(noise + kChannels * blockDim.x),
        squares(sums + rows * blockDim.x),
        eps_hat(reinterpret_cast<T*>(squares + rows * blockDim.x)) {}

  static int64_t bytes(int64_t threads, int64_t K, int64_t rows, int64_t channels) {
    const int64_t pixel = (kChannels + 2 * rows) * sizeof(float) + 2 * channels * K * sizeof(T);
    return kRows * static_cast<int64_t>(sizeof(Pair)) + threads * pixel;
  }
};

// The first sample from n on that belongs to replicate g.
template <typename T>
__device__ int64_t next_sample(const AccumulateArgs<T>& a, int64_t g, int64_t n) {
  while (n < a.N && a.replicate[n] != g) ++n;
  return n;
}

// Starts the copy of channels c … c + count - 1 of all conditions of sample n to the buffer `to`. Each of four
// neighbouring threads copies one channel of all four pixels.
template <typename T, bool kAligned>
__device__ void fetch(const AccumulateArgs<T>& a, T* to, int64_t n, int64_t b, int64_t c, int count, int64_t h) {
  const int lane = threadIdx.x % 4;
  if (h >= a.HW) return;
  to += threadIdx.x;
  for (int64_t k = 0; k < a.K; ++k, to += blockDim.x) {
    const T* from = a.eps_hat + (((n * a.K + k) * a.B + b) * a.C + c) * a.HW + h;
    if constexpr (!kAligned) {
      for (int i = 0; i < count; ++i) to[i * a.K * blockDim.x] = from[i * a.HW];
    } else if (lane < count) {
      __pipeline_memcpy_async(to - lane + lane * a.K * blockDim.x, from - lane + lane * a.HW, sizeof(Four<T>));
    }
  }
}

// Sets noise to that of the channels from c on at this thread's pixel h. Each of four neighbouring threads computes one
// channel of all four pixels, which are one Philox block.
template <typename T, bool kAligned>
__device__ void set_noise(const AccumulateArgs<T>& a, float* shared, int64_t id, int64_t c, int64_t h,
                          float (&noise)[kChannels]) {
  if constexpr (kAligned) {
    const int lane = threadIdx.x % 4;
    const int64_t e = (c + lane) * a.HW + h - lane;
    const Normals eps = normals4(a.seed, id, static_cast<uint32_t>(e / 4));
    *reinterpret_cast<Four<float>*>(shared + lane * blockDim.x + threadIdx.x - lane) =
        Four<float>{eps.v[0], eps.v[1], eps.v[2], eps.v[3]};
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kChannels; ++i) noise[i] = shared[i * blockDim.x + threadIdx.x];
  } else {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int64_t e = (c + i) * a.HW + h;
      const Normals eps = normals4(a.seed, id, static_cast<uint32_t>(e / 4));
      const int lane = static_cast<int>(e % 4);
      noise[i] = lane < 2 ? (lane ? eps.v[1] : eps.v[0]) : (lane == 2 ? eps.v[2] : eps.v[3]);
    }
  }
}

// Adds scale * s to sums[row] and s to squares[row], s = sum over channels of (left - right)^2 at this thread's pixel,
// whose eps_hat is tile[channel][K]. The `first` channels of a sample overwrite squares. A thread that is not `inside`
// the image contributes nothing.
template <typename T>
__device__ void add_rows(const Pair* pairs, int rows, const T* tile, int64_t K, int count, float scale,
                         const float (&noise)[kChannels], float* sums, float* squares, bool first, bool inside) {
  float left[kChannels] = {};
  int loaded = -1;
  for (int row = 0; row < rows; ++row) {
    const Pair pair = pairs[row];
    if (pair.left != loaded) {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        if (i < count) left[i] = to_float(tile[(i * K + pair.left) * blockDim.x]);
      }
      loaded = pair.left;
    }
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      if (i < count) {
        const float right = to_float(tile[(i * K + pair.right) * blockDim.x]);
        total += squared_difference(pair.left < 0 ? noise[i] : left[i], right);
      }
    }
    sums[row * blockDim.x] += scale * total;
    if (!inside) total = 0.0f;
    squares[row * blockDim.x] = first ? total : squares[row * blockDim.x] + total;
  }
}

// The number of pixels of a tile: those of a warp, or of a smaller block.
__host__ __device__ inline int64_t tile_width(int64_t threads) { return threads < 32 ? threads : 32; }

// Sets to[row * B] to the sum of squares[row] over the pixels of this warp, each lane for some of the rows. Lanes begin
// at different pixels, so that no two read the same bank.
__device__ void add_pixels(const float* squares, int rows, int64_t B, float* to) {
  const int width = static_cast<int>(tile_width(blockDim.x)), lane = threadIdx.x % width;
  squares += threadIdx.x - lane;
  for (int row = lane; row < rows; row += width) {
    float total = 0.0f;
    for (int i = 0; i < width; ++i) total += squares[row * blockDim.x + (lane + i) % width];
    to[row * B] = total;
  }
}

// The address of the sums [HW] of residual or gap `row` of replicate g and image b.
template <typename T>
__device__ float* sums_of(const AccumulateArgs<T>& a, int64_t row, int64_t g, int64_t b) {
  return row < a.K ? a.residuals + ((g * a.K + row) * a.B + b) * a.HW
                   : a.gaps + ((g * a.P + row - a.K) * a.B + b) * a.HW;
}

// A block has blockDim.x pixels of one image and one replicate, one for each thread, and up to kRows of the K residuals
// and P gaps. It adds the samples of its replicate in order, `channels` at a time, while the next are copied.
// eps_hat is read once for every kRows rows. There are no atomics and no sums shared between warps, so that the result
// is the same at every launch. Data is exchanged only within a warp, so that no warp waits for another.
template <typename T, bool kAligned>
__global__ void accumulate_kernel(AccumulateArgs<T> a, int channels) {
  extern __shared__ __align__(16) unsigned char memory[];
  const int64_t h = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t b = blockIdx.y, g = blockIdx.z % a.G, first = blockIdx.z / a.G * kRows;
  const int rows = static_cast<int>(min(static_cast<int64_t>(kRows), a.K + a.P - first));
  const Shared<T> shared(memory, rows);
  int64_t n = next_sample(a, g, 0), c = 0;
  if (n == a.N) return;

  for (int row = threadIdx.x; row < rows; row += blockDim.x) {
    const int64_t p = first + row - a.K;
    shared.pairs[row] = p < 0 ? Pair{-1, static_cast<int>(first + row)}
                              : Pair{static_cast<int>(a.pairs[2 * p]), static_cast<int>(a.pairs[2 * p + 1])};
  }
  float* sums = shared.sums + threadIdx.x;
  for (int row = 0; row < rows; ++row) {
    sums[row * blockDim.x] = h < a.HW ? sums_of(a, first + row, g, b)[h] : 0.0f;
  }
  __syncthreads();

  const auto count_at = [&](int64_t c) { return static_cast<int>(min(static_cast<int64_t>(channels), a.C - c)); };
  const int64_t tile = channels * a.K * blockDim.x;
  float noise[kChannels] = {};
  int64_t noise_id = 0, noise_channel = -1;
  fetch<T, kAligned>(a, shared.eps_hat, n, b, c, count_at(c), h);
  __pipeline_commit();
  for (int buffer = 0; n < a.N; buffer ^= 1) {
    const bool same = c + channels < a.C;
    const int64_t next_n = same ? n : next_sample(a, g, n + 1), next_c = same ? c + channels : 0;
    __syncwarp();  // before the buffer is overwritten, all neighbours must have read it
    if (next_n < a.N) {
      fetch<T, kAligned>(a, shared.eps_hat + (buffer ^ 1) * tile, next_n, b, next_c, count_at(next_c), h);
    }
    __pipeline_commit();
    __pipeline_wait_prior(1);
    __syncwarp();
    if (first < a.K) {
      const int64_t id = a.sample_id[n];
      if (id == ~noise_id && noise_channel == c) {  // the antithetic partner of the last sample; same channels
        for (float& value : noise) value = -value;
      } else {
        set_noise<T, kAligned>(a, shared.noise, id, c, h, noise);
      }
      noise_id = id, noise_channel = c;
    }
    add_rows(shared.pairs, rows, shared.eps_hat + buffer * tile + threadIdx.x, a.K, count_at(c), 0.5f * a.weight[n],
             noise, sums, shared.squares + threadIdx.x, c == 0, h < a.HW);
    if (!same) {
      __syncwarp();
      const int64_t at = h / tile_width(blockDim.x) * a.N + n;
      add_pixels(shared.squares, rows, a.B, a.tiles + (at * (a.K + a.P) + first) * a.B + b);
    }
    n = next_n, c = next_c;
  }
  if (h >= a.HW) return;
  for (int row = 0; row < rows; ++row) sums_of(a, first + row, g, b)[h] = sums[row * blockDim.x];
}

template <typename T>
__global__ void sum_kernel(AccumulateArgs<T> a, int64_t tiles) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < a.N * (a.K + a.P) * a.B) a.squares[i] = half_sum(a, tiles, i);
}

struct Shape {
  int64_t threads = 128, rows, channels = kChannels, bytes;
  int most = 0;  // bytes of shared memory that a block may have

  int64_t blocks(int64_t HW) const { return (HW + threads - 1) / threads; }
  int64_t tiles(int64_t HW) const { return blocks(HW) * threads / tile_width(threads); }
};

// Sets *shape to the launch configuration of accumulate_kernel; returns a cudaError_t.
template <typename T>
int shape_of(int64_t K, int64_t P, Shape* shape) {
  int device = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&shape->most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)) {
    return error;
  }
  // Blocks are small so that a multiprocessor holds several. If many conditions need more memory than there is: smaller
  // blocks, then fewer channels at once, then less than a warp.
  shape->rows = std::min<int64_t>(kRows, K + P);
  const auto bytes = [&] { return shape->bytes = Shared<T>::bytes(shape->threads, K, shape->rows, shape->channels); };
  while (bytes() > shape->most / 4 && shape->threads > 32) shape->threads /= 2;
  while (bytes() > shape->most && shape->channels > 1) shape->channels /= 2;
  while (bytes() > shape->most && shape->threads > 4) shape->threads /= 2;
  return bytes() > shape->most ? cudaErrorInvalidConfiguration : cudaSuccess;
}

}  // namespace

template <typename T>
int accumulate_tiles_cuda(int64_t K, int64_t P, int64_t HW, int64_t* tiles) {
  Shape shape;
  const int error = shape_of<T>(K, P, &shape);
  *tiles = shape.tiles(HW);
  return error;
}

template <typename T>
int accumulate_cuda(const AccumulateArgs<T>& a, void* stream) {
  const int64_t parts = (a.K + a.P + kRows - 1) / kRows, sums = a.N * (a.K + a.P) * a.B;
  if (sums == 0) return cudaSuccess;
  Shape shape;
  if (int error = shape_of<T>(a.K, a.P, &shape)) return error;
  cudaLaunchConfig_t launch = {};
  launch.stream = static_cast<cudaStream_t>(stream);
  if (a.HW > 0) {
    const bool aligned = a.HW % 4 == 0 && reinterpret_cast<uintptr_t>(a.eps_hat) % alignof(Four<T>) == 0;
    auto* kernel = aligned ? accumulate_kernel<T, true> : accumulate_kernel<T, false>;
    if (cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.most)) {
      return error;
    }
    launch.gridDim =
        dim3(static_cast<unsigned>(shape.blocks(a.HW)), static_cast<unsigned>(a.B), static_cast<unsigned>(a.G * parts));
    launch.blockDim = dim3(static_cast<unsigned>(shape.threads));
    launch.dynamicSmemBytes = static_cast<size_t>(shape.bytes);
    if (cudaError_t error = cudaLaunchKernelEx(&launch, kernel, a, static_cast<int>(shape.channels))) return error;
  }
  launch.blockDim = dim3(128);
  launch.gridDim = dim3(static_cast<unsigned>((sums + 127) / 128));
  launch.dynamicSmemBytes = 0;
  return cudaLaunchKernelEx(&launch, sum_kernel<T>, a, shape.tiles(a.HW));
}

template int accumulate_tiles_cuda<float>(int64_t, int64_t, int64_t, int64_t*);
template int accumulate_tiles_cuda<Half>(int64_t, int64_t, int64_t, int64_t*);
template int accumulate_tiles_cuda<BFloat16>(int64_t, int64_t, int64_t, int64_t*);
template int accumulate_cuda(const AccumulateArgs<float>&, void*);
template int accumulate_cuda(const AccumulateArgs<Half>&, void*);
template int accumulate_cuda(const AccumulateArgs<BFloat16>&, void*);

}  // namespace dpid
