#include "limit.h"

namespace muxtable {
namespace {

constexpr int64_t kWidth = 32, kAhead = 24;

}  // namespace

float limit_gather(const float* table, int64_t stride, const int64_t* rows, int64_t count,
                   int threads) {
  float total = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) {
    if (i + kAhead < count) {
      const float* next = table + rows[i + kAhead] * stride;
      __builtin_prefetch(next);
      __builtin_prefetch(next + 16);
    }
    const float* row = table + rows[i] * stride;
    float sum = 0;
    for (int64_t j = 0; j < kWidth; ++j) sum += row[j];
    total += sum;
  }
  return total;
}

void limit_modify(float* table, int64_t stride, const int64_t* rows, int64_t count, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < count; ++i) {
    if (i + kAhead < count) {
      float* next = table + rows[i + kAhead] * stride;
      __builtin_prefetch(next, 1);
      __builtin_prefetch(next + 16, 1);
    }
    float* row = table + rows[i] * stride;
    for (int64_t j = 0; j < kWidth; ++j) row[j] *= 0.5f;
  }
}

float limit_read(const float* data, int64_t count, int threads) {
  float total = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) total += data[i];
  return total;
}

}  // namespace muxtable
