// What the binding files share: array types that convert nothing, and checks that name the argument.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

namespace muxtable {

namespace nb = nanobind;

template <typename T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
// A matrix whose rows may lie apart; its inner axis is checked by `matrix_stride`.
template <typename T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::device::cpu>;

template <typename Array>
int64_t length(const Array& array, int axis = 0) {
  return static_cast<int64_t>(array.shape(axis));
}

inline void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

inline void require_length(int64_t got, int64_t wanted, const char* name) {
  require(got == wanted, std::string(name) + " has length " + std::to_string(got) + ", expected " +
                             std::to_string(wanted));
}

// Returns the items from one row to the next; refuses an inner axis with gaps and rows that overlap.
template <typename Array>
int64_t matrix_stride(const Array& array, const char* name) {
  const int64_t rows = length(array, 0), width = length(array, 1);
  require(rows == 0 || width <= 1 || array.stride(1) == 1,
          std::string(name) + " has gaps inside its rows: its inner axis must be contiguous");
  if (rows <= 1) return width;
  require(array.stride(0) >= width, std::string(name) + " has rows that overlap");
  return array.stride(0);
}

inline int checked_threads(int threads) {
  require(threads >= 1 && threads <= 4096,
          "threads is " + std::to_string(threads) + ", expected 1 to 4096");
  return threads;
}

// Returns a new numpy vector of n items, not cleared.
template <typename T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> new_vector(int64_t n) {
  T* const items = new T[static_cast<size_t>(n > 0 ? n : 1)];
  nb::capsule owner(items, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return {items, {static_cast<size_t>(n)}, owner};
}

void bind_hashing(nb::module_& module);
void bind_order(nb::module_& module);
void bind_memory(nb::module_& module);
void bind_tables(nb::module_& module);
void bind_distinct(nb::module_& module);
void bind_codecs(nb::module_& module);
void bind_frames(nb::module_& module);

}  // namespace muxtable
