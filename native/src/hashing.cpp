#include "hashing.h"

#include <algorithm>
#include <cstring>

#include "dispatch.h"
#include "mix.h"

namespace muxtable {
namespace {

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87u;
constexpr uint64_t kPrime2 = 0xC2B2AE3D27D4EB4Fu;
constexpr uint64_t kPrime3 = 0x165667B19E3779F9u;
constexpr uint64_t kPrime4 = 0x85EBCA77C2B2AE63u;
constexpr uint64_t kPrime5 = 0x27D4EB2F165667C5u;

inline uint64_t rotate(uint64_t x, int bits) { return (x << bits) | (x >> (64 - bits)); }

// Reads little-endian words wherever they lie.
template <typename Word>
inline Word read(const uint8_t* p) {
  Word word;
  std::memcpy(&word, p, sizeof(word));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  if constexpr (sizeof(Word) == 8) return __builtin_bswap64(word);
  return __builtin_bswap32(word);
#endif
  return word;
}

inline uint64_t round(uint64_t acc, uint64_t word) {
  return rotate(acc + word * kPrime2, 31) * kPrime1;
}

inline uint64_t merge(uint64_t hash, uint64_t acc) {
  return (hash ^ round(0, acc)) * kPrime1 + kPrime4;
}

inline uint64_t xxh64_inline(const uint8_t* p, size_t size, uint64_t seed) {
  const uint8_t* const end = p + size;
  uint64_t hash;
  if (size >= 32) {
    uint64_t a = seed + kPrime1 + kPrime2, b = seed + kPrime2, c = seed, d = seed - kPrime1;
    do {
      a = round(a, read<uint64_t>(p));
      b = round(b, read<uint64_t>(p + 8));
      c = round(c, read<uint64_t>(p + 16));
      d = round(d, read<uint64_t>(p + 24));
      p += 32;
    } while (end - p >= 32);
    hash = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18);
    hash = merge(merge(merge(merge(hash, a), b), c), d);
  } else {
    hash = seed + kPrime5;
  }
  hash += size;
  for (; end - p >= 8; p += 8)
    hash = rotate(hash ^ round(0, read<uint64_t>(p)), 27) * kPrime1 + kPrime4;
  if (end - p >= 4) {
    hash = rotate(hash ^ (read<uint32_t>(p) * kPrime1), 23) * kPrime2 + kPrime3;
    p += 4;
  }
  for (; p < end; ++p) hash = rotate(hash ^ (*p * kPrime5), 11) * kPrime1;
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

}  // namespace

uint64_t xxh64(const uint8_t* data, size_t size, uint64_t seed) {
  return xxh64_inline(data, size, seed);
}

template <typename Offset>
bool hash_strings(const Offset* offsets, int64_t n, const uint8_t* data, uint64_t data_size,
                  uint64_t seed, uint64_t* out) {
  // The offsets come from a file: all of them are checked before one is used.
  uint64_t previous = static_cast<uint64_t>(static_cast<int64_t>(offsets[0]));
  bool wrong = false;
  for (int64_t i = 1; i <= n; ++i) {
    const uint64_t next = static_cast<uint64_t>(static_cast<int64_t>(offsets[i]));
    wrong |= next < previous;
    previous = next;
  }
  if (wrong || previous > data_size) return false;
  for (int64_t i = 0; i < n; ++i)
    out[i] = xxh64_inline(data + offsets[i], static_cast<size_t>(offsets[i + 1] - offsets[i]), seed);
  return true;
}

template bool hash_strings(const int32_t*, int64_t, const uint8_t*, uint64_t, uint64_t, uint64_t*);
template bool hash_strings(const int64_t*, int64_t, const uint8_t*, uint64_t, uint64_t, uint64_t*);

void hash_rows(const RowHash& task, int threads) {
  // Threads share out (lookup, chunk) pairs, where there is more to do than starting them costs.
  constexpr int64_t kChunk = 16384, kSmall = 1 << 17;
  const int64_t chunks = (task.n + kChunk - 1) / kChunk;
  const Loops& isa = loops();
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads) \
    if (threads > 1 && task.n * task.num_lookups > kSmall)
  for (int64_t l = 0; l < task.num_lookups; ++l) {
    for (int64_t c = 0; c < chunks; ++c) {
      const int64_t first = c * kChunk, count = std::min(kChunk, task.n - first);
      const int64_t f = task.feature[l];
      isa.hash(task.keys + f * task.key_stride + first,
               task.nulls ? task.nulls + f * task.null_stride + first : nullptr, task.lookups[l],
               task.out + l * task.out_stride + first, count);
    }
  }
}

void exact_rows(const ExactRows& task) {
  const int64_t size = task.vocabulary_size;
  for (int64_t i = 0; i < task.n; ++i) {
    int64_t value = size + 1;
    if (task.nulls == nullptr || !task.nulls[i]) {
      // Lower bound without branches: the vocabulary is small and the answers are unpredictable.
      const uint64_t key = task.keys[i];
      const uint64_t* at = task.vocabulary;
      for (int64_t length = size; length > 1;) {
        const int64_t half = length / 2;
        at += at[half - 1] < key ? half : 0;
        length -= half;
      }
      value = size > 0 && *at == key ? at - task.vocabulary : size;
    }
    for (int64_t k = 0; k < task.num_lookups; ++k)
      task.out[k * task.out_stride + i] = task.base + value * task.num_lookups + k;
  }
}

}  // namespace muxtable
