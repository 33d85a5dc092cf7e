// Standard normal noise from a counter-based generator, Philox4x32-10 (Salmon et al., 2011), and the Box-Muller
// transform, the same on CPU and GPU; docs/theory.md, eq. (4).
//
// eps(seed, sample_id, image, element): counter = (element / 4, image, id low, id high), key = (seed low, seed
// high), lane = element % 4. A negative sample_id names the antithetic partner: eps(~id) = -eps(id).
#pragma once

#include <cmath>

#include "common.h"

namespace dpid {

struct Philox {
  uint32_t v[4];
};

struct Normals {
  float v[4];
};

// The 64 bits of a * b. Of p >> 32 nvcc makes an addition of zero; in this way it takes the register.
DPID_INLINE void multiply(uint32_t a, uint32_t b, uint32_t* high, uint32_t* low) {
#if defined(__CUDA_ARCH__)
  asm("{ .reg .u64 p; mul.wide.u32 p, %2, %3; mov.b64 {%1, %0}, p; }" : "=r"(*high), "=r"(*low) : "r"(a), "r"(b));
#else
  const uint64_t p = static_cast<uint64_t>(a) * b;
  *high = static_cast<uint32_t>(p >> 32), *low = static_cast<uint32_t>(p);
#endif
}

DPID_INLINE Philox philox4x32(Philox c, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    uint32_t high0, low0, high1, low1;
    multiply(0xD2511F53u, c.v[0], &high0, &low0);
    multiply(0xCD9E8D57u, c.v[2], &high1, &low1);
    c = Philox{{high1 ^ c.v[1] ^ key0, low1, high0 ^ c.v[3] ^ key1, low0}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

// Natural logarithm of u in (0, 1] to about 1 ulp (polynomial of Cephes logf). Without a call of libm loops are
// vectorised, and CPU and GPU round alike.
DPID_INLINE float log_unit(float u) {
  const uint32_t bits = bit_cast<uint32_t>(u);
  // Mantissa to [sqrt(1/2), sqrt(2)), so that u near 1 keeps its relative accuracy.
  const uint32_t shifted = bits - 0x3f3504f3u;
  const int32_t exponent = static_cast<int32_t>(shifted) >> 23;
  const float m = bit_cast<float>((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  const float e = static_cast<float>(exponent);
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const float square = m * m;
  float tail = p * m * square;
  tail += e * -2.12194440e-4f;
  tail -= 0.5f * square;
  return (m + tail) + e * 0.693359375f;
}

// Two independent normals from two random words. The angle is reduced to [-pi/4, pi/4) in integers, so that sine and
// cosine are accurate also near their zeros.
DPID_INLINE void box_muller(uint32_t radius_bits, uint32_t angle_bits, float* first, float* second) {
  const float u = static_cast<float>(radius_bits) * 0x1p-32f + 0x1p-33f;  // (0, 1]
  const float radius = sqrtf(-2.0f * log_unit(u));
  const uint32_t quadrant = (angle_bits + 0x20000000u) >> 30;
  const int32_t rest = static_cast<int32_t>(angle_bits - (quadrant << 30));
  const float t = static_cast<float>(rest) * 1.46291807926715968105e-9f;  // 2 pi / 2^32
  const float t2 = t * t;
  const float s = t + t * t2 * ((-1.9515295891e-4f * t2 + 8.3321608736e-3f) * t2 - 1.6666654611e-1f);
  const float c =
      1.0f - 0.5f * t2 + t2 * t2 * ((2.443315711809948e-5f * t2 - 1.388731625493765e-3f) * t2 + 4.166664568298827e-2f);
  const bool swap = (quadrant & 1u) != 0;
  const float cosine = swap ? s : c;
  const float sine = swap ? c : s;
  *first = ((quadrant + 1u) & 2u) != 0 ? -radius * cosine : radius * cosine;
  *second = (quadrant & 2u) != 0 ? -radius * sine : radius * sine;
}

// The noise of elements 4 * block … 4 * block + 3 of an image under one sample. All images have the same noise, so that
// one of a batch gets the numbers that it gets alone.
DPID_INLINE Normals normals4(uint64_t seed, int64_t sample_id, uint32_t block) {
  const bool antithetic = sample_id < 0;
  const uint64_t id = static_cast<uint64_t>(antithetic ? ~sample_id : sample_id);
  const Philox words = philox4x32(Philox{{block, 0, static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32)}},
                                  static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  Normals n;
  box_muller(words.v[0], words.v[1], &n.v[0], &n.v[1]);
  box_muller(words.v[2], words.v[3], &n.v[2], &n.v[3]);
  const float sign = antithetic ? -1.0f : 1.0f;
  for (float& value : n.v) value *= sign;
  return n;
}

}  // namespace dpid
