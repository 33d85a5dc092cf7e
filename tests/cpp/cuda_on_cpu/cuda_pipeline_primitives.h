// Asynchronous copies that happen when they are waited for, or at once.
#pragma once

#include "cuda_runtime.h"

inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes) {
  const bool fits = bytes == 4 || bytes == 8 || bytes == 16;
  if (!fits || reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes) {
    emulated::fail("asynchronous copy: size or alignment");
  }
  if (emulated::late) {
    emulated::open.push_back({to, from, bytes});
  } else {
    std::memcpy(to, from, bytes);
  }
}
inline void __pipeline_commit() { emulated::committed.push_back(std::exchange(emulated::open, {})); }
inline void __pipeline_wait_prior(size_t but) {
  for (; emulated::committed.size() > but; emulated::committed.pop_front()) {
    for (const emulated::Copy& copy : emulated::committed.front()) std::memcpy(copy.to, copy.from, copy.bytes);
  }
}
