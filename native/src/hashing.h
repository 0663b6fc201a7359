// Keys of strings, and keys to rows for a whole batch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "loops.h"

namespace muxtable {

// xxh64 of `size` bytes (Yann Collet's published algorithm).
uint64_t xxh64(const uint8_t* data, size_t size, uint64_t seed);

// Hashes the n strings of an Arrow buffer pair; false if an offset falls or leaves the data.
template <typename Offset>
bool hash_strings(const Offset* offsets, int64_t n, const uint8_t* data, uint64_t data_size,
                  uint64_t seed, uint64_t* out);

struct RowHash {
  const uint64_t* keys;  // [features, n]
  int64_t key_stride;
  const uint8_t* nulls;  // or nullptr
  int64_t null_stride;
  int64_t n;
  const int32_t* feature;  // [lookups]
  const LookupHash* lookups;
  int64_t num_lookups;
  int64_t* out;  // [lookups, n]
  int64_t out_stride;
};
void hash_rows(const RowHash& task, int threads);

// Rows of an exact feature: value i of the sorted vocabulary, n for an unseen one, n + 1 for null.
struct ExactRows {
  const uint64_t* keys;
  const uint8_t* nulls;  // or nullptr
  int64_t n;
  const uint64_t* vocabulary;
  int64_t vocabulary_size;
  int64_t base;
  int64_t num_lookups;
  int64_t* out;  // [num_lookups, n]
  int64_t out_stride;
};
void exact_rows(const ExactRows& task);

}  // namespace muxtable
