#include "memory.h"

#include <sys/mman.h>

#include <climits>
#include <cstdlib>
#include <new>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "dispatch.h"
#include "mix.h"

namespace muxtable {
namespace {

constexpr uint64_t kHugePage = uint64_t{2} << 20;

#if defined(__GLIBC__) && defined(MADV_HUGEPAGE)
// Heap that is grown ahead, without touching it: room for the temporaries of a step. It is less than
// the threshold from which on malloc maps memory apart, and gives it back: tables stay out of it.
constexpr uint64_t kHeapBytes = uint64_t{1000} << 20;

// Wants huge pages for the heap to come: a step reads gradients at random, and with small pages
// every row costs a walk through the page table as well.
void advise_heap() {
  void* const block = std::malloc(kHeapBytes);
  if (block == nullptr) return;  // a tight limit on address space: small pages work all the same
  const uintptr_t address = reinterpret_cast<uintptr_t>(block);
  const uintptr_t begin = (address + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (address + kHeapBytes) & ~(kHugePage - 1);
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  std::free(block);
}
#else
void advise_heap() {}
#endif

}  // namespace

int64_t row_stride(int64_t width) {
  if (width > 16) return (width + 15) / 16 * 16;
  int64_t stride = 1;
  while (stride < width) stride *= 2;
  return stride;
}

Mapping map_zeroed(uint64_t bytes) {
  const uint64_t page = 4096;
  const uint64_t size = bytes < page ? page : (bytes + page - 1) / page * page;
  // Asks for a huge page more and gives both ends back, so that the table starts at one.
  const uint64_t asked = size + kHugePage;
  if (asked < bytes) throw std::bad_alloc();
  void* const map = mmap(nullptr, asked, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) throw std::bad_alloc();
  char* const low = static_cast<char*>(map);
  const uint64_t skip = (kHugePage - reinterpret_cast<uintptr_t>(low) % kHugePage) % kHugePage;
  char* const base = low + skip;
  if (skip > 0) munmap(low, skip);
  munmap(base + size, asked - skip - size);
#ifdef MADV_HUGEPAGE
  // Advice: a system without huge pages refuses it, and the table works all the same.
  madvise(base, size, MADV_HUGEPAGE);
#endif
  return {base, size};
}

void unmap(const Mapping& mapping) noexcept { munmap(mapping.base, mapping.size); }

void fill_uniform(float* table, int64_t stride, int64_t rows, int64_t width, uint64_t key,
                  float scale, uint64_t first_row, int threads) {
  const float unit = scale * 0x1p-23f;
  const Loops& isa = loops();
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t r = 0; r < rows; ++r) {
    const uint64_t row_key = mix64(key + (first_row + static_cast<uint64_t>(r) + 1) * kGolden);
    isa.uniform(table + r * stride, row_key, unit, width);
  }
}

bool tune_allocator() {
#ifdef __GLIBC__
  const bool threshold = mallopt(M_MMAP_THRESHOLD, 1 << 30) == 1;
  const bool trim = mallopt(M_TRIM_THRESHOLD, INT_MAX) == 1;
  const bool pad = mallopt(M_TOP_PAD, 256 << 20) == 1;
  advise_heap();
  return threshold && trim && pad;
#else
  return false;
#endif
}

}  // namespace muxtable
