#include "update.h"

#include <omp.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <stdexcept>

#include "dispatch.h"
#include "workspace.h"

namespace muxtable {
namespace {

constexpr int64_t kBucketEntries = 1024;  // aimed at
constexpr int64_t kLeastEntries = 128;    // smaller buckets cost more than they save
constexpr int64_t kGoEntries = 4096;      // its working memory stays in the L2 cache
constexpr int64_t kMaxBuckets = 1 << 16;
constexpr int64_t kChunkEntries = 8192;
constexpr int64_t kThreadEntries = 4096;  // a thread with less costs more than it saves
constexpr int64_t kParallelEntries = 1 << 17;  // fewer are partitioned faster by one thread

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

  Plan(const BatchRows& batch, int64_t width) {
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
};

// Rows of one bucket, as a power of two: buckets of about kBucketEntries, or smaller ones where
// that makes their rows few enough to be looked up by number.
int bucket_shift(int64_t table_rows, int64_t num_entries) {
  const int64_t direct = (table_rows >> kMaxDirectShift) + 1;
  int64_t wanted = num_entries / kBucketEntries + 1;
  if (direct <= num_entries / kLeastEntries) wanted = std::max(wanted, direct);
  wanted = std::min(wanted, kMaxBuckets);
  int shift = 0;
  while (((table_rows - 1) >> shift) >= wanted && (int64_t{1} << (shift + 1)) <= kMaxBucketRows)
    ++shift;
  return shift;
}

class Run {
 public:
  Run(UpdateTask task, const BatchRows& batch, int64_t table_rows, int threads)
      : task_(task), batch_(batch), plan_(batch, task.width) {
    num_entries_ = plan_.num_entries;
    if (num_entries_ == 0) return;
    shift_ = bucket_shift(table_rows, num_entries_);
    num_buckets_ = ((table_rows - 1) >> shift_) + 1;
    threads_ = static_cast<int>(
        std::min<int64_t>(threads, std::max<int64_t>(1, num_entries_ / kThreadEntries)));
    entries_ = workspace_->entries.reserve(num_entries_);
    // A count for each thread and bucket, then the ends of all buckets.
    counts_ = workspace_->counts.reserve((threads_ + 1) * num_buckets_);
    ends_ = counts_ + threads_ * num_buckets_;
    scaled_ = workspace_->scaled.reserve(plan_.scaled_size);
    task_.gradients[1] = scaled_;
    workspace_->threads.resize(std::max<size_t>(workspace_->threads.size(), threads_));
  }

  int64_t run() {
    if (num_entries_ == 0) return 0;
    if (num_entries_ < kParallelEntries) {
      scale(0, 1);
      count(0, 1);
      place(1);
      scatter(0, 1);
    } else {
      place_together();
    }
    const int64_t num_goes = static_cast<int64_t>(workspace_->goes.size());
    int64_t num_rows = 0;
#pragma omp parallel num_threads(threads_) if (threads_ > 1) reduction(+ : num_rows)
    {
      const Scratch scratch = workspace_->threads[static_cast<size_t>(omp_get_thread_num())].reserve(
          table_size_, largest_go_);
#pragma omp for schedule(dynamic, 1) nowait
      for (int64_t i = 0; i < num_goes; ++i) {
        const Go& go = workspace_->goes[static_cast<size_t>(i)];
        num_rows += isa_.update(task_, {entries_, ends_, go.first, go.last, shift_}, scratch);
      }
    }
    return num_rows;
  }

 private:
  // Partitions the entries, the threads taking consecutive parts of them.
  void place_together() {
    // Nothing may be thrown out of a parallel region: what fails inside is kept for later.
    std::exception_ptr failure;
#pragma omp parallel num_threads(threads_) if (threads_ > 1)
    {
      const int thread = omp_get_thread_num(), team = omp_get_num_threads();
      scale(thread, team);
      count(thread, team);
#pragma omp barrier
#pragma omp master
      {
        try {
          place(team);
        } catch (...) {
          failure = std::current_exception();
        }
      }
#pragma omp barrier
      if (!failure) scatter(thread, team);
    }
    if (failure) std::rethrow_exception(failure);
  }

  void scale(int thread, int team) {
    for (const ScaledBag& scaled : plan_.scaled) {
      const BagRows& bag = *scaled.bag;
      const int64_t length = bag.num_lookups * task_.width, n = batch_.num_samples;
      for (int64_t b = n * thread / team; b < n * (thread + 1) / team; ++b) {
        const int64_t values = bag.offsets[b + 1] - bag.offsets[b];
        if (values > 0)
          isa_.scale(task_.gradients[0] + b * batch_.gradient_stride + bag.column,
                     1.0f / static_cast<float>(values), scaled_ + scaled.start + b * length, length);
      }
    }
  }

  // The chunks of a thread: consecutive, so that entries of a bucket keep their order.
  template <typename Visit>
  void for_chunks(int thread, int team, const Visit& visit) const {
    const int64_t n = static_cast<int64_t>(plan_.chunks.size());
    for (int64_t c = n * thread / team; c < n * (thread + 1) / team; ++c)
      visit(plan_.chunks[static_cast<size_t>(c)]);
  }

  void count(int thread, int team) {
    int64_t* const counts = counts_ + thread * num_buckets_;
    std::fill(counts, counts + num_buckets_, 0);
    const int shift = shift_;
    for_chunks(thread, team, [&](const Chunk& chunk) {
      chunk.for_each_row([&](int64_t row) { ++counts[row >> shift]; });
    });
  }

  // Turns counts into places, bucket by bucket, threads in order inside, and plans the goes.
  void place(int team) {
    std::vector<Go>& goes = workspace_->goes;
    goes.clear();
    const int64_t share = num_entries_ / (8 * threads_);
    const int64_t enough = std::max<int64_t>(kBucketEntries, std::min(kGoEntries, share));
    int64_t at = 0, largest_bucket = 0;
    Go go{0, 0, 0};
    for (int64_t p = 0; p < num_buckets_; ++p) {
      const int64_t begin = at;
      for (int t = 0; t < team; ++t) {
        const int64_t count = counts_[t * num_buckets_ + p];
        counts_[t * num_buckets_ + p] = at;
        at += count;
      }
      ends_[p] = at;
      largest_bucket = std::max(largest_bucket, at - begin);
      go.last = p + 1;
      go.size += at - begin;
      if (go.size >= enough || go.last == num_buckets_) {
        if (go.size > 0) goes.push_back(go);
        go = {go.last, go.last, 0};
      }
    }
    // Large ones first: one that started last would leave the other threads waiting.
    std::stable_sort(goes.begin(), goes.end(),
                     [&](const Go& a, const Go& b) { return a.size / enough > b.size / enough; });
    largest_go_ = goes.front().size;
    for (const Go& each : goes) largest_go_ = std::max(largest_go_, each.size);
    if (largest_go_ >= std::numeric_limits<uint32_t>::max())
      throw std::invalid_argument("a batch with 2^32 lookups of neighbouring rows is too large");
    table_size_ = table_size(shift_, largest_bucket);
    for (int t = 0; t < threads_; ++t)
      workspace_->threads[static_cast<size_t>(t)].reserve(table_size_, largest_go_);
  }

  void scatter(int thread, int team) {
    int64_t* const places = counts_ + thread * num_buckets_;
    uint64_t* const entries = entries_;
    const int shift = shift_;
    const int64_t mask = (int64_t{1} << shift) - 1;
    for_chunks(thread, team, [&](const Chunk& chunk) {
      chunk.for_each([&](int64_t row, uint64_t offset) {
        entries[places[row >> shift]++] =
            (static_cast<uint64_t>(row & mask) << kOffsetBits) | offset;
      });
    });
  }

  const Loops& isa_ = loops();
  UpdateTask task_;
  const BatchRows& batch_;
  Plan plan_;
  Lease workspace_;
  int64_t num_entries_ = 0, num_buckets_ = 0, table_size_ = 0, largest_go_ = 0;
  int shift_ = 0, threads_ = 1;
  uint64_t* entries_ = nullptr;
  int64_t *counts_ = nullptr, *ends_ = nullptr;
  float* scaled_ = nullptr;
};

}  // namespace

int64_t update(const UpdateTask& task, const BatchRows& batch, int64_t table_rows, int threads) {
  return Run(task, batch, table_rows, threads).run();
}

}  // namespace muxtable
