#include "update.h"

#include <omp.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <stdexcept>

#include "dispatch.h"
#include "plan.h"
#include "workspace.h"

namespace muxtable {
namespace {

constexpr int64_t kGoEntries = 4096;      // its working memory stays in the L2 cache
constexpr int64_t kThreadEntries = 4096;  // a thread with less costs more than it saves
constexpr int64_t kParallelEntries = 1 << 17;  // fewer are partitioned faster by one thread

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
      plan_.scale(isa_, task_.gradients[0], scaled_, 0, 1);
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
      plan_.scale(isa_, task_.gradients[0], scaled_, thread, team);
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
