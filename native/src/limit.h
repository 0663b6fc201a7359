// What the machine can do at best, measured beside the kernels: rows of 32 floats, touched at random.
#pragma once

#include <cstdint>

namespace muxtable {

// Copies n rows to `out`, one after another.
void limit_copy_rows(const float* table, int64_t stride, const int64_t* rows, int64_t n, float* out,
                     int threads);

// Reads, negates and writes n distinct rows.
void limit_change_rows(float* table, int64_t stride, const int64_t* rows, int64_t n, int threads);

// Reads n floats that lie one after another.
float limit_read_all(const float* data, int64_t n, int threads);

}  // namespace muxtable
