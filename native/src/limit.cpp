#include "limit.h"

#include "dispatch.h"

namespace muxtable {

void limit_copy_rows(const float* table, int64_t stride, const int64_t* rows, int64_t n, float* out,
                     int threads) {
  const Loops& isa = loops();
  // Around the caches where that is faster: the output is larger than they are.
  const bool streaming = n * 128 > kCacheBytes && reinterpret_cast<uintptr_t>(out) % 64 == 0;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int part = 0; part < threads; ++part) {
    const int64_t first = n * part / threads, last = n * (part + 1) / threads;
    isa.copy_rows(table, stride, rows + first, last - first, out + 32 * first, streaming);
  }
}

void limit_change_rows(float* table, int64_t stride, const int64_t* rows, int64_t n, int threads) {
  const Loops& isa = loops();
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int part = 0; part < threads; ++part) {
    const int64_t first = n * part / threads, last = n * (part + 1) / threads;
    isa.change_rows(table, stride, rows + first, last - first);
  }
}

float limit_read_all(const float* data, int64_t n, int threads) {
  const Loops& isa = loops();
  float total = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : total)
  for (int part = 0; part < threads; ++part) {
    const int64_t first = n * part / threads, last = n * (part + 1) / threads;
    total += isa.read_all(data + first, last - first);
  }
  return total;
}

}  // namespace muxtable
