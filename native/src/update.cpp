#include "update.h"

#include <algorithm>
#include <memory>
#include <mutex>

#include "dispatch.h"

namespace muxtable {
namespace {

// Grows without keeping or clearing its old contents.
template <typename Item>
class Buffer {
 public:
  Item* reserve(int64_t size) {
    if (size > size_) {
      items_.reset();
      items_.reset(new Item[static_cast<size_t>(size + size / 4)]);
      size_ = size + size / 4;
    }
    return items_.get();
  }
  Item* get() const { return items_.get(); }

 private:
  std::unique_ptr<Item[]> items_;
  int64_t size_ = 0;
};

struct ThreadScratch {
  Buffer<uint64_t> slots, sorted;
  Buffer<uint32_t> unique, starts, rows;

  Scratch reserve(int64_t entries) {
    return {slots.reserve(num_slots(entries)), unique.reserve(entries), starts.reserve(entries + 1),
            rows.reserve(entries), sorted.reserve(entries)};
  }
};

// Kept between steps, so that none starts with page faults.
struct Workspace {
  Buffer<uint64_t> entries;
  Buffer<int64_t> starts;
  Buffer<float> scaled;
  std::vector<ThreadScratch> threads;
};

// Lends workspaces; concurrent steps (on different tables) get different ones.
class Pool {
 public:
  std::unique_ptr<Workspace> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return std::make_unique<Workspace>();
    std::unique_ptr<Workspace> workspace = std::move(free_.back());
    free_.pop_back();
    return workspace;
  }
  void give(std::unique_ptr<Workspace> workspace) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(workspace));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> free_;
};

Pool& pool() {
  static Pool* const instance = new Pool;  // never destroyed: threads may outlive static objects
  return *instance;
}

template <typename Visit>
void for_each_entry(const BatchRows& batch, const std::vector<int64_t>& scaled_at, int64_t width,
                    Visit visit) {
  for (int64_t l = 0; l < batch.num_lookups; ++l)
    for (int64_t b = 0; b < batch.num_samples; ++b)
      visit(batch.rows[l * batch.row_stride + b],
            static_cast<uint64_t>(b * batch.gradient_stride + batch.columns[l]));
  for (size_t g = 0; g < batch.bags.size(); ++g) {
    const BagRows& bag = batch.bags[g];
    for (int64_t k = 0; k < bag.num_lookups; ++k)
      for (int64_t b = 0; b < batch.num_samples; ++b) {
        const uint64_t offset =
            bag.mean ? (uint64_t{1} << kScaledBit) |
                           static_cast<uint64_t>(scaled_at[g] + (b * bag.num_lookups + k) * width)
                     : static_cast<uint64_t>(b * batch.gradient_stride + bag.column + k * width);
        for (int64_t i = bag.offsets[b]; i < bag.offsets[b + 1]; ++i)
          visit(bag.rows[k * bag.row_stride + i], offset);
      }
  }
}

}  // namespace

int64_t update(UpdateTask task, const BatchRows& batch, int64_t table_rows, int threads) {
  const Loops& isa = loops();
  int64_t num_entries = batch.num_samples * batch.num_lookups;
  int64_t scaled_size = 0;
  std::vector<int64_t> scaled_at;
  for (const BagRows& bag : batch.bags) {
    num_entries += bag.num_lookups * (bag.offsets[batch.num_samples] - bag.offsets[0]);
    scaled_at.push_back(scaled_size);
    if (bag.mean) scaled_size += batch.num_samples * bag.num_lookups * task.width;
  }
  if (num_entries == 0) return 0;
  std::unique_ptr<Workspace> workspace = pool().take();

  float* const scaled = workspace->scaled.reserve(scaled_size);
  for (size_t g = 0; g < batch.bags.size(); ++g) {
    const BagRows& bag = batch.bags[g];
    if (!bag.mean) continue;
    const int64_t length = bag.num_lookups * task.width;
    for (int64_t b = 0; b < batch.num_samples; ++b) {
      const int64_t count = bag.offsets[b + 1] - bag.offsets[b];
      if (count > 0)
        isa.scale(task.gradients[0] + b * batch.gradient_stride + bag.column,
                  1.0f / static_cast<float>(count), scaled + scaled_at[g] + b * length, length);
    }
  }
  task.gradients[1] = scaled;

  int shift = 0;
  while ((table_rows >> shift) > num_entries / 1024 + 1 || (table_rows >> shift) > 65536) ++shift;
  while ((int64_t{1} << shift) > kMaxBucketRows) --shift;
  const int64_t num_buckets = (table_rows >> shift) + 1;
  int64_t* const starts = workspace->starts.reserve(num_buckets + 1);
  std::fill(starts, starts + num_buckets + 1, 0);
  for_each_entry(batch, scaled_at, task.width, [&](int64_t row, uint64_t) { ++starts[row >> shift]; });
  int64_t place = 0, largest = 0;
  for (int64_t p = 0; p <= num_buckets; ++p) {
    const int64_t count = starts[p];
    starts[p] = place;
    place += count;
    largest = std::max(largest, count);
  }
  uint64_t* const entries = workspace->entries.reserve(num_entries);
  const int64_t mask = (int64_t{1} << shift) - 1;
  for_each_entry(batch, scaled_at, task.width, [&](int64_t row, uint64_t offset) {
    entries[starts[row >> shift]++] = (static_cast<uint64_t>(row & mask) << kOffsetBits) | offset;
  });

  workspace->threads.resize(std::max<size_t>(workspace->threads.size(), 1));
  const Scratch scratch = workspace->threads[0].reserve(largest);
  int64_t unique = 0, begin = 0;
  for (int64_t p = 0; p < num_buckets; ++p) {
    if (starts[p] > begin)
      unique += isa.update(task, p << shift, entries + begin, starts[p] - begin, scratch);
    begin = starts[p];
  }
  (void)threads;
  pool().give(std::move(workspace));
  return unique;
}

}  // namespace muxtable
