// Memory of tables: zeroed, in huge pages where the system has them, rows aligned to cache lines.
#pragma once

#include <cstdint>

namespace muxtable {

// Floats from one row to the next: a power of two up to 16 (a cache line), then multiples of 16.
int64_t row_stride(int64_t width);

struct Mapping {
  void* base;
  uint64_t size;
};

// Maps zeroed bytes starting at a huge page; throws std::bad_alloc where there is no room.
Mapping map_zeroed(uint64_t bytes);
void unmap(const Mapping& mapping) noexcept;

// Writes the initial values of rows first_row .. first_row + rows - 1.
void fill_uniform(float* table, int64_t stride, int64_t rows, int64_t width, uint64_t key,
                  float scale, uint64_t first_row, int threads);

// Keeps glibc from returning the memory of large temporaries to the system after each step.
bool tune_allocator();

}  // namespace muxtable
