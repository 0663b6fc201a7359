// The fixed arithmetic of "mux1" (ARCHITECTURE.md) for one value.
#pragma once

#include <cstdint>

namespace muxtable {
namespace {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;

// Always inlined: this header is compiled for every instruction set.
__attribute__((always_inline)) inline uint64_t mix64(uint64_t x) {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9u;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

__attribute__((always_inline)) inline uint64_t mulhi64(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
}

}  // namespace
}  // namespace muxtable
