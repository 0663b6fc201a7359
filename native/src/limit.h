// What the machine can do at best, measured beside the kernels.
#pragma once

#include <cstdint>

namespace muxtable {

// Reads `count` random rows of `stride` floats (the first 32 of each) into a running sum.
float limit_gather(const float* table, int64_t stride, const int64_t* rows, int64_t count,
                   int threads);

// Reads, changes and writes the first 32 floats of `count` random rows.
void limit_modify(float* table, int64_t stride, const int64_t* rows, int64_t count, int threads);

// Reads `count` floats one after another.
float limit_read(const float* data, int64_t count, int threads);

}  // namespace muxtable
