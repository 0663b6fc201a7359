#include "order.h"

#include <algorithm>

#include "dispatch.h"
#include "mix.h"

namespace muxtable {
namespace {

template <typename Item>
void permute_items(const void* column, const uint32_t* order, int64_t n, void* out) {
  const Item* from = static_cast<const Item*>(column);
  Item* to = static_cast<Item*>(out);
  for (int64_t i = 0; i < n; ++i) to[i] = from[order[i]];
}

}  // namespace

void permutation(uint64_t key, int64_t n, uint32_t* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<uint32_t>(i);
  // The random words are computed in blocks, where they vectorise; the swaps cannot.
  constexpr int64_t kBlock = 256;
  uint64_t words[kBlock];
  for (int64_t top = n - 1; top >= 1; top -= kBlock) {
    const int64_t count = std::min(kBlock, top);
    for (int64_t k = 0; k < count; ++k) words[k] = key + static_cast<uint64_t>(top - k + 1) * kGolden;
    loops().mix(words, words, count);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t i = top - k;
      std::swap(out[i], out[mulhi64(words[k], static_cast<uint64_t>(i + 1))]);
    }
  }
}

void permute(const void* column, int item_size, const uint32_t* order, int64_t n, void* out) {
  if (item_size == 1) permute_items<uint8_t>(column, order, n, out);
  if (item_size == 4) permute_items<uint32_t>(column, order, n, out);
  if (item_size == 8) permute_items<uint64_t>(column, order, n, out);
}

}  // namespace muxtable
