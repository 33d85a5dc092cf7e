#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>

#include "accumulate_units.h"

namespace dpid {
namespace {

constexpr int kPixels = 2 * kWarp;  // pixels of a block, two a thread
constexpr int kChannels = 4;        // most channels taken together
constexpr int kStages = 3;          // steps in shared memory: the current one and those that are copied meanwhile
constexpr int kKept = 8;            // most steps whose noise is kept for the antithetic partner
constexpr int kSumLanes = 8;        // threads that add up the tiles of a sum

using Sums = float[kSlots][2];  // of a thread: of every slot and pixel

template <typename T>
struct alignas(2 * sizeof(T)) Two {
  T v[2];
};

// What the blocks of a launch have in common.
struct Layout {
  int parts, conditions, channels;  // parts of the pairs; conditions and channels that are in shared memory together
  int kept;                         // steps whose noise is kept
  int64_t row, sample, sums;        // elements of eps_hat for every condition and sample, of scratch for every sample
};

// A step of a block: `count` channels from c on of one sample, at pixels from h on of image b; in shared memory
// [channel][conditions][kPixels], its noise [channel][kPixels]. kAligned: four pixels are one word.
template <typename T, bool kAligned>
struct Steps {
  static constexpr int kWidth = kAligned ? 4 : 1;
  struct alignas(kWidth * sizeof(float)) Word {
    float v[kWidth];
  };
  const AccumulateArgs<T>& a;
  const Layout& layout;
  const Part part;
  const int64_t b, h;

  // Starts the copy of a step to `to`. In `step` are its pixels under condition 0.
  __device__ void fetch(T* to, const T* step, int count) const {
    constexpr int columns = kAligned ? kPixels / kWidth : kWarp;
    const int rows = part.diagonal ? min(layout.conditions, kWide) : layout.conditions;
#pragma unroll 1
    for (int row = threadIdx.x / columns; row < rows; row += blockDim.x / columns) {
      const int k = part.condition(row);
      for (int x = threadIdx.x % columns * kWidth; x < kPixels; x += columns * kWidth) {
        if (k >= a.K || h + x >= a.HW) continue;
        const T* from = step + k * layout.row + x;
        T* at = to + row * kPixels + x;
#pragma unroll
        for (int i = 0; i < kChannels; ++i, from += a.HW, at += layout.conditions * kPixels) {
          if (i >= count) break;
          if constexpr (kAligned) {
            __pipeline_memcpy_async(at, from, sizeof(Four<T>));
          } else {
            *at = *from;
          }
        }
      }
    }
  }

  // Sets `to` to the noise of a step; if that of the antithetic partner is known, to `partner` with the other sign.
  __device__ void set_noise(float* to, const float* partner, bool known, int64_t id, int c, int count) const {
#pragma unroll 1
    for (int i = threadIdx.x * kWidth; i < count * kPixels; i += blockDim.x * kWidth) {
      if (h + i % kPixels >= a.HW) continue;
      if (known) {
        Word eps = *reinterpret_cast<const Word*>(partner + i);
        for (float& value : eps.v) value = -value;
        *reinterpret_cast<Word*>(to + i) = eps;
        continue;
      }
      const int64_t e = (c + i / kPixels) * a.HW + h + i % kPixels;
      const Normals eps = normals4(a.seed, id, static_cast<uint32_t>(e / 4));
      if constexpr (kAligned) {
        *reinterpret_cast<Word*>(to + i) = Word{eps.v[0], eps.v[1], eps.v[2], eps.v[3]};
      } else {
        const int lane = static_cast<int>(e % 4);
        to[i] = lane < 2 ? (lane ? eps.v[1] : eps.v[0]) : (lane == 2 ? eps.v[2] : eps.v[3]);
      }
    }
  }
};

template <typename T>
__device__ void load(const T* from, float (&to)[2]) {
  const Two<T> two = *reinterpret_cast<const Two<T>*>(from + 2 * (threadIdx.x % kWarp));
  to[0] = to_float(two.v[0]), to[1] = to_float(two.v[1]);
}

// Adds the squared differences in one channel: of the groups at left and right or, if they are the same (kDiagonal), of
// all pairs of its conditions and of each with the noise, with which it then also adds the products.
template <bool kDiagonal, typename T>
__device__ void add_channel(const T* left, const T* right, const float* noise, Sums& sums) {
  float l[kGroup][2], r[kGroup][2], eps[2];
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    load(left + i * kPixels, l[i]);
    if (!kDiagonal) load(right + i * kPixels, r[i]);
  }
  if (kDiagonal) load(noise, eps);
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int i = slot / kGroup, j = slot % kGroup;
    if (kDiagonal && i > j) continue;
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      const float difference = (kDiagonal && i == j ? eps[v] : l[i][v]) - (kDiagonal ? l[j][v] : r[j][v]);
      sums[slot][v] = fmaf(difference, difference, sums[slot][v]);
      if (kDiagonal && i == j) sums[product_slot(i)][v] = fmaf(l[i][v], difference, sums[product_slot(i)][v]);
    }
  }
}

// The sum of values[lane % kSlots] over the threads of a warp. Each gives away half of its values, again and again.
template <int kCount>
__device__ float add_lanes(const float (&values)[kCount]) {
  if constexpr (kCount == 1) {
    return values[0] + __shfl_xor_sync(kAll, values[0], kSlots);
  } else {
    constexpr int half = kCount / 2;
    const bool upper = (threadIdx.x & half) != 0;
    float sums[half];
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float low = values[i], high = values[i + half];
      sums[i] = (upper ? high : low) + __shfl_xor_sync(kAll, upper ? low : high, half);
    }
    return add_lanes(sums);
  }
}

// Adds the `count` channels of a step, [channel][size / kPixels][kPixels], and of its noise.
template <typename T>
__device__ void add_step(const Unit& own, const T* step, int size, const float* noise, int count, Sums& sums) {
  const T *left = step + own.left * kPixels, *right = step + own.right * kPixels;
  if (own.diagonal) {
#pragma unroll 1
    for (int i = 0; i < count; ++i) add_channel<true>(left + i * size, right, noise + i * kPixels, sums);
  } else {
#pragma unroll 1
    for (int i = 0; i < count; ++i) add_channel<false>(left + i * size, right + i * size, noise, sums);
  }
}

// Adds scale * values to a warp's sums [kSlots][kPixels] and sets values to zero. Returns the sum of a slot of them
// over all pixels, in lanes s and kSlots + s that of slot s.
__device__ float take(Sums& values, float scale, float* sums) {
  float totals[kSlots];
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    totals[s] = values[s][0] + values[s][1];
    auto* to = reinterpret_cast<Two<float>*>(sums + s * kPixels) + threadIdx.x % kWarp;
    const Two<float> before = *to;
    *to = Two<float>{before.v[0] + scale * values[s][0], before.v[1] + scale * values[s][1]};
    values[s][0] = values[s][1] = 0.0f;
  }
  return add_lanes(totals);
}

// Adds a warp's sums [kSlots][kPixels] to the residuals and gaps that have its slots; several may have the same. The
// memory itself adds, so that nothing waits for it, and only once to every value, so that there is only one order.
template <typename T>
__device__ void add_rows(const AccumulateArgs<T>& a, int unit, int64_t b, int64_t h, const float* sums) {
  const int lane = threadIdx.x % kWarp;
  const int64_t g = blockIdx.z;
  for (int64_t first = 0; first < a.K + a.P; first += kWarp) {
    const int64_t slot = first + lane < a.K + a.P ? slot_of(a, first + lane) : -1;
    for (unsigned left = __ballot_sync(kAll, slot >= 0 && slot / kSlots == unit); left != 0; left &= left - 1) {
      const int next = __ffs(static_cast<int>(left)) - 1;
      const float* from = sums + __shfl_sync(kAll, static_cast<int>(slot % kSlots), next) * kPixels;
      const int64_t row = first + next;
      float* to = row < a.K ? a.residuals + ((g * a.K + row) * a.B + b) * a.HW
                            : a.gaps + ((g * a.P + row - a.K) * a.B + b) * a.HW;
      for (int64_t x = lane; x < min(static_cast<int64_t>(kPixels), a.HW - h); x += kWarp) {
        atomicAdd(to + h + x, from[x]);
      }
    }
  }
}

// A block has kPixels pixels of one image and one replicate, and one part of the pairs of conditions. It adds the
// samples of its replicate in order, `channels` at a time, while the next are copied to shared memory. There its warps
// find eps_hat and noise; each adds up the differences of its two groups of conditions. No sum is shared between warps,
// so that the result is the same at every launch and does not depend on other images.
template <typename T, bool kAligned>
__global__ void __launch_bounds__(kWarps* kWarp, 2) accumulate_kernel(AccumulateArgs<T> a, Layout layout) {
  extern __shared__ __align__(16) unsigned char memory[];
  const int lane = threadIdx.x % kWarp, C = static_cast<int>(a.C), channels = layout.channels;
  const int64_t tile = blockIdx.x / layout.parts;
  const Part part(static_cast<int>(blockIdx.x % layout.parts));
  const Steps<T, kAligned> steps{a, layout, part, blockIdx.y, tile * kPixels};
  const Unit own(part, a.K);
  const int channel = layout.conditions * kPixels, size = channels * channel, noise_size = channels * kPixels;
  float* sums = reinterpret_cast<float*>(memory);                            // [warps][kSlots][kPixels], over samples
  float* const noise = sums + blockDim.x / kWarp * kSlots * kPixels;         // [kept] steps
  T* const stages = reinterpret_cast<T*>(noise + layout.kept * noise_size);  // [kStages] steps
  sums += threadIdx.x / kWarp * kSlots * kPixels;

  Samples<T> sample(a, static_cast<int>(blockIdx.z));
  if (sample.n == sample.N) return;
  const bool used = own.exists && (layout.parts == 1 || own.diagonal || is_needed(a, own.unit));
  if (layout.parts > 1 && !__syncthreads_or(used)) return;
  for (int i = lane; i < kSlots * kPixels; i += kWarp) sums[i] = 0.0f;
  if (steps.h + kPixels > a.HW) {  // zeros, so that pixels outside the image add nothing
    for (int i = threadIdx.x; i < layout.kept * noise_size; i += blockDim.x) noise[i] = 0.0f;
    for (int i = threadIdx.x; i < kStages * size; i += blockDim.x) stages[i] = T{};
  }
  __syncthreads();

  float* totals = a.scratch + tile * a.N * layout.sums + steps.b * all_slots(a.K) + own.unit * kSlots + lane;
  Sums current = {};         // sums over the channels of a sample
  bool is_partner = false;   // whether it is the antithetic partner of the one before, whose noise is kept
  int c = 0, next_c = 0;     // the first channel of a step
  Samples<T> next = sample;  // that is copied
  const T* const image = a.eps_hat + steps.b * a.C * a.HW + steps.h;
  const T* from = image + next.n * layout.sample;
  for (int t = 1 - kStages, place = 0; sample.n < sample.N; ++t) {
    const int count = min(channels, C - c);
    float* const eps = noise + place * noise_size;
    if (t >= 0) {
      if (part.diagonal) {
        // The partner's noise is in the same place or, if one step has all channels, in the other of two.
        const float* partner = C > channels ? eps : noise + (1 - place) * noise_size;
        steps.set_noise(eps, partner, is_partner, sample.id, c, count);
      }
      __pipeline_wait_prior(kStages - 2);
      __syncthreads();  // the step is there, and nobody reads the one before any more
    }
    if (next.n < next.N) {
      steps.fetch(stages + (t + kStages - 1) % kStages * size, from, min(channels, C - next_c));
      next_c += channels, from += channels * a.HW;
      if (next_c >= C) {
        next.next();
        next_c = 0, from = image + next.n * layout.sample;
      }
    }
    __pipeline_commit();
    if (t < 0) continue;

    if (used) add_step(own, stages + t % kStages * size, channel, eps, count, current);
    place = place + 1 < layout.kept ? place + 1 : 0;
    c += channels;
    if (c < C) continue;
    c = 0;
    const float total = take(current, 0.5f * sample.weight, sums);
    if (used && lane < kSlots) totals[sample.n * layout.sums] = total;
    const int64_t id = sample.id;
    sample.next();
    is_partner = sample.id == ~id && C <= layout.kept * channels;
  }
  __syncwarp();
  if (used) add_rows(a, own.unit, steps.b, steps.h, sums);
}

// Sets squares to half the sums over tiles, in double, since there may be thousands of them.
template <typename T>
__global__ void sum_kernel(AccumulateArgs<T> a, int64_t tiles) {
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x, i = thread / kSumLanes;  // squares[n][row][b]
  const unsigned B = static_cast<unsigned>(a.B), rows = static_cast<unsigned>(a.rows()), n = i / B / rows;
  const int64_t slots = all_slots(a.K), slot = n < a.N ? slot_of(a, i / B % rows) : -1;
  double total = 0.0;
  if (slot >= 0) {
    const float* from = a.scratch + (n * B + i % B) * slots + slot;
#pragma unroll 8
    for (int64_t tile = thread % kSumLanes; tile < tiles; tile += kSumLanes) total += from[tile * a.N * a.B * slots];
  }
  for (int half = kSumLanes / 2; half > 0; half /= 2) total += __shfl_xor_sync(kAll, total, half);
  if (n < a.N && thread % kSumLanes == 0) a.squares[i] = static_cast<float>(0.5 * total);
}

}  // namespace

int64_t accumulate_scratch_cuda(int64_t N, int64_t K, int64_t B, int64_t HW) {
  return divide_up(HW, kPixels) * N * B * all_slots(K);
}

template <typename T>
int launch_accumulate(const AccumulateArgs<T>& a, cudaLaunchConfig_t launch) {
  const bool aligned = a.HW % 4 == 0 && reinterpret_cast<uintptr_t>(a.eps_hat) % alignof(Four<T>) == 0;
  auto* kernel = aligned ? accumulate_kernel<T, true> : accumulate_kernel<T, false>;
  int device = 0, most = 0;  // bytes of shared memory that a block may have
  if (int error = cudaGetDevice(&device)) return error;
  if (int error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)) return error;
  if (int error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most)) return error;

  const int64_t wide = divide_up(a.K, kWide), groups = std::min<int64_t>(divide_up(a.K, kGroup), kWide / kGroup);
  const int64_t parts = wide * wide, conditions = wide == 1 ? groups * kGroup : kWide + kNarrow, image = a.C * a.HW;
  const int64_t warps = triangle(groups), word = sizeof(float);
  int64_t channels = 2 * kChannels, kept = 0, bytes = most + 1;
  while (bytes > most && channels > 1) {  // a small device takes fewer channels together
    channels /= 2, kept = std::clamp<int64_t>(divide_up(a.C, channels), 2, kKept);
    const int64_t element = kStages * conditions * static_cast<int64_t>(sizeof(T));
    bytes = kPixels * (warps * kSlots * word + channels * (kept * word + element));
  }
  const Layout layout = {static_cast<int>(parts),
                         static_cast<int>(conditions),
                         static_cast<int>(channels),
                         static_cast<int>(kept),
                         a.B * image,
                         a.K * a.B * image,
                         a.B * all_slots(a.K)};
  launch.gridDim = dim3(static_cast<unsigned>(divide_up(a.HW, kPixels) * parts), static_cast<unsigned>(a.B),
                        static_cast<unsigned>(a.G));
  launch.blockDim = dim3(static_cast<unsigned>(warps * kWarp));
  launch.dynamicSmemBytes = static_cast<size_t>(bytes);
  return cudaLaunchKernelEx(&launch, kernel, a, layout);
}

template <typename T>
int accumulate_cuda(const AccumulateArgs<T>& a, void* stream) {
  const int64_t sums = a.N * a.rows() * a.B;
  if (sums == 0) return cudaSuccess;
  cudaLaunchConfig_t launch = {};
  launch.stream = static_cast<cudaStream_t>(stream);
  if (a.HW > 0) {
    // CUDA loads a kernel at its first use, which takes memory: both are there before one has added anything.
    cudaFuncAttributes loaded;
    if (int error = cudaFuncGetAttributes(&loaded, sum_kernel<T>)) return error;
    if (int error = launch_accumulate(a, launch)) return error;
  }
  launch.blockDim = dim3(128);
  launch.gridDim = dim3(static_cast<unsigned>(divide_up(sums * kSumLanes, 128)));
  return cudaLaunchKernelEx(&launch, sum_kernel<T>, a, divide_up(a.HW, kPixels));
}

template int accumulate_cuda(const AccumulateArgs<float>&, void*);
template int accumulate_cuda(const AccumulateArgs<Half>&, void*);
template int accumulate_cuda(const AccumulateArgs<BFloat16>&, void*);

}  // namespace dpid
