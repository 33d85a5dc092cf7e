// A tensor as passed from Python: (address, dtype, shape) of contiguous memory. Ops check dtype and shape, so that
// swapped arguments raise an error instead of a crash.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "common.h"

namespace dpid {

struct View {
  static constexpr size_t kMostDims = 6;
  uintptr_t address = 0;
  DType dtype = DType::kFloat32;
  std::array<int64_t, kMostDims> shape = {};
  size_t dims = 0;
};

template <typename T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::kFloat32;
  if constexpr (std::is_same_v<T, Half>) return DType::kFloat16;
  if constexpr (std::is_same_v<T, BFloat16>) return DType::kBFloat16;
  if constexpr (std::is_same_v<T, double>) return DType::kFloat64;
  if constexpr (std::is_same_v<T, int64_t>) return DType::kInt64;
  if constexpr (std::is_same_v<T, uint32_t>) return DType::kUInt32;
}

inline std::string describe(DType dtype, const int64_t* shape, size_t dims) {
  static const char* const names[] = {"float32", "float16", "bfloat16", "float64", "int64", "uint32"};
  std::string text = std::string(names[static_cast<int>(dtype)]) + " [";
  for (size_t i = 0; i < dims; ++i) text += (i ? "," : "") + std::to_string(shape[i]);
  return text + "]";
}

// The address of `view`; std::invalid_argument unless its elements are of type T and its shape is `shape`.
template <typename T, size_t kDims>
T* expect(const char* name, const View& view, const int64_t (&shape)[kDims]) {
  constexpr DType dtype = dtype_of<std::remove_const_t<T>>();
  if (view.dtype != dtype || view.dims != kDims || !std::equal(shape, shape + kDims, view.shape.begin())) {
    throw std::invalid_argument(std::string(name) + ": found " + describe(view.dtype, view.shape.data(), view.dims) +
                                ", expected " + describe(dtype, shape, kDims));
  }
  return reinterpret_cast<T*>(view.address);
}

}  // namespace dpid

template <>
struct pybind11::detail::type_caster<dpid::View> {
  PYBIND11_TYPE_CASTER(dpid::View, const_name("tuple[int, int, tuple[int, ...]]"));

  bool load(handle from, bool) {
    if (!PyTuple_Check(from.ptr()) || PyTuple_GET_SIZE(from.ptr()) != 3) return false;
    PyObject* shape = PyTuple_GET_ITEM(from.ptr(), 2);
    const size_t dims = PyTuple_Check(shape) ? static_cast<size_t>(PyTuple_GET_SIZE(shape)) : dpid::View::kMostDims + 1;
    const long dtype = PyLong_AsLong(PyTuple_GET_ITEM(from.ptr(), 1));
    value.address = PyLong_AsSize_t(PyTuple_GET_ITEM(from.ptr(), 0));
    value.dtype = static_cast<dpid::DType>(dtype);
    value.dims = dims;
    for (size_t i = 0; i < dims && dims <= dpid::View::kMostDims; ++i) {
      value.shape[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape, static_cast<Py_ssize_t>(i)));
    }
    if (!PyErr_Occurred()) {
      return dims <= dpid::View::kMostDims && dtype >= 0 && dtype <= static_cast<long>(dpid::DType::kUInt32);
    }
    PyErr_Clear();
    return false;
  }
};
