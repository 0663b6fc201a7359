// What a step over a batch goes through: runs of row numbers, where their gradients lie, and how the
// rows are cut into buckets.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "loops.h"
#include "update.h"

namespace muxtable {

constexpr int64_t kBucketEntries = 1024;  // aimed at
constexpr int64_t kLeastEntries = 128;    // smaller buckets cost more than they save
constexpr int64_t kMaxBuckets = 1 << 16;
constexpr int64_t kChunkEntries = 8192;

// A run of a lookup's row numbers. The gradient of a univalent lookup's sample b lies at
// offset + b * stride; a bag's values share the one of their sample.
struct Chunk {
  const int64_t* rows;
  const int64_t* offsets;  // of the bags, or nullptr
  int64_t first, last;     // samples
  uint64_t offset;
  int64_t stride;

  int64_t size() const { return offsets ? offsets[last] - offsets[first] : last - first; }

  template <typename Visit>
  void for_each(const Visit& visit) const {
    if (offsets == nullptr) {
      for (int64_t b = first; b < last; ++b)
        visit(rows[b], offset + static_cast<uint64_t>(b * stride));
      return;
    }
    for (int64_t b = first; b < last; ++b)
      for (int64_t i = offsets[b]; i < offsets[b + 1]; ++i)
        visit(rows[i], offset + static_cast<uint64_t>(b * stride));
  }

  // The same without where the gradients lie.
  template <typename Visit>
  void for_each_row(const Visit& visit) const {
    const int64_t begin = offsets ? offsets[first] : first, end = offsets ? offsets[last] : last;
    for (int64_t i = begin; i < end; ++i) visit(rows[i]);
  }
};

// The gradient of bags pooled by mean, divided by their lengths once instead of for each value.
struct ScaledBag {
  const BagRows* bag;
  int64_t start;  // in the scaled buffer: [samples, lookups * width]
};

struct Plan {
  std::vector<Chunk> chunks;  // in the order in which gradients of one row are summed
  std::vector<ScaledBag> scaled;
  int64_t num_entries = 0;
  int64_t scaled_size = 0;

  // Cuts one lookup into chunks of about kChunkEntries.
  void add(Chunk lookup, int64_t num_samples) {
    while (lookup.first < num_samples) {
      if (lookup.offsets == nullptr) {
        lookup.last = std::min(lookup.first + kChunkEntries, num_samples);
      } else {
        const int64_t aim = lookup.offsets[lookup.first] + kChunkEntries;
        const int64_t* const end = lookup.offsets + num_samples;
        const int64_t* const at = std::lower_bound(lookup.offsets + lookup.first + 1, end, aim);
        lookup.last = at - lookup.offsets;
      }
      if (lookup.size() > 0) chunks.push_back(lookup);
      num_entries += lookup.size();
      lookup.first = lookup.last;
    }
  }

  const BatchRows& batch;
  int64_t width;

  Plan(const BatchRows& rows, int64_t row_width) : batch(rows), width(row_width) {
    const int64_t n = batch.num_samples;
    for (int64_t l = 0; l < batch.num_lookups; ++l)
      add({batch.rows + l * batch.row_stride, nullptr, 0, 0,
           static_cast<uint64_t>(batch.columns[l]), batch.gradient_stride},
          n);
    for (const BagRows& bag : batch.bags) {
      uint64_t offset = static_cast<uint64_t>(bag.column);
      int64_t stride = batch.gradient_stride;
      if (bag.mean) {
        offset = (uint64_t{1} << kScaledBit) | static_cast<uint64_t>(scaled_size);
        stride = bag.num_lookups * width;
        scaled.push_back({&bag, scaled_size});
        scaled_size += n * stride;
      }
      for (int64_t k = 0; k < bag.num_lookups; ++k)
        add({bag.rows + k * bag.row_stride, bag.offsets, 0, 0,
             offset + static_cast<uint64_t>(k * width), stride},
            n);
    }
  }

  // Writes a thread's part of the scaled buffer.
  void scale(const Loops& isa, const float* gradient, float* out, int thread, int team) const {
    for (const ScaledBag& each : scaled) {
      const BagRows& bag = *each.bag;
      const int64_t length = bag.num_lookups * width, n = batch.num_samples;
      for (int64_t b = n * thread / team; b < n * (thread + 1) / team; ++b) {
        const int64_t values = bag.offsets[b + 1] - bag.offsets[b];
        if (values > 0)
          isa.scale(gradient + b * batch.gradient_stride + bag.column,
                    1.0f / static_cast<float>(values), out + each.start + b * length, length);
      }
    }
  }
};

// Rows of one bucket, as a power of two: buckets of about kBucketEntries, or smaller ones where
// that makes their rows few enough to be looked up by number.
inline int bucket_shift(int64_t table_rows, int64_t num_entries) {
  const int64_t direct = (table_rows >> kMaxDirectShift) + 1;
  int64_t wanted = num_entries / kBucketEntries + 1;
  if (direct <= num_entries / kLeastEntries) wanted = std::max(wanted, direct);
  wanted = std::min(wanted, kMaxBuckets);
  int shift = 0;
  while (((table_rows - 1) >> shift) >= wanted && (int64_t{1} << (shift + 1)) <= kMaxBucketRows)
    ++shift;
  return shift;
}

}  // namespace muxtable
