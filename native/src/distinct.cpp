#include "distinct.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "dispatch.h"
#include "plan.h"
#include "workspace.h"

namespace muxtable {
namespace {

constexpr uint64_t kEntryMask = kOffsetMask;  // an entry: row inside the bucket, then its number
constexpr int64_t kSumRows = 512;             // summed in one go
constexpr int64_t kSmallSum = 4096;

// Cells: the buckets of neighbouring rows, cut where one owner ends and the next begins. They rise
// with the row, so the distinct rows of an owner stand together.
class Cells {
 public:
  struct Cell {
    int64_t end;    // the first row behind it
    int64_t owner;
  };

  Cells(const std::vector<int64_t>& bounds, int64_t num_entries) {
    const int64_t rows = bounds.back();
    shift_ = bucket_shift(rows, num_entries);
    const int64_t num_buckets = ((rows - 1) >> shift_) + 1;
    first_.reserve(static_cast<size_t>(num_buckets));
    size_t owner = 0;
    for (int64_t p = 0; p < num_buckets; ++p) {
      const int64_t bucket_end = std::min((p + 1) << shift_, rows);
      first_.push_back(static_cast<uint32_t>(cells_.size()));
      int64_t at = p << shift_;
      while (at < bucket_end) {
        while (bounds[owner + 1] <= at) ++owner;
        at = std::min(bucket_end, bounds[owner + 1]);
        cells_.push_back({at, static_cast<int64_t>(owner)});
      }
    }
  }

  // The loop hardly ever turns: few buckets are cut.
  size_t of(int64_t row) const {
    size_t cell = first_[static_cast<size_t>(row >> shift_)];
    while (row >= cells_[cell].end) ++cell;
    return cell;
  }

  int shift() const { return shift_; }
  size_t size() const { return cells_.size(); }
  const Cell& operator[](size_t cell) const { return cells_[cell]; }

 private:
  int shift_ = 0;
  std::vector<uint32_t> first_;  // of a bucket
  std::vector<Cell> cells_;
};

class Search {
 public:
  Search(const std::vector<RowRun>& runs, int64_t num_entries, const std::vector<int64_t>& bounds,
         const Distinct& out)
      : runs_(runs), bounds_(bounds), out_(out), cells_(bounds, num_entries) {
    entries_ = workspace_->entries.reserve(num_entries);
    ends_ = workspace_->counts.reserve(static_cast<int64_t>(cells_.size()));
    if (workspace_->threads.empty()) workspace_->threads.resize(1);
  }

  void run() {
    partition();
    int64_t largest = 0, begin = 0;
    for (size_t c = 0; c < cells_.size(); ++c) {
      largest = std::max(largest, ends_[c] - begin);
      begin = ends_[c];
    }
    scratch_ = workspace_->threads[0].reserve(table_size(cells_.shift(), largest), largest);
    begin = 0;
    for (size_t c = 0; c < cells_.size(); ++c) {
      if (ends_[c] > begin) {
        if (cells_.shift() <= kMaxDirectShift)
          number<true>(c, begin, ends_[c]);
        else
          number<false>(c, begin, ends_[c]);
      }
      begin = ends_[c];
    }
    out_.starts[num_rows_] = static_cast<uint32_t>(begin);
  }

 private:
  template <typename Visit>
  void for_each(const Visit& visit) const {
    uint64_t e = 0;
    for (const RowRun& run : runs_)
      for (int64_t i = 0; i < run.size; ++i) visit(run.rows[i], e++);
  }

  // Puts the entries of each cell together, in their order.
  void partition() {
    int64_t* const ends = ends_;
    std::fill(ends, ends + cells_.size(), 0);
    for_each([&](int64_t row, uint64_t) { ++ends[cells_.of(row)]; });
    int64_t at = 0;
    for (size_t c = 0; c < cells_.size(); ++c) {
      const int64_t count = ends[c];
      ends[c] = at;
      at += count;
    }
    const int64_t mask = (int64_t{1} << cells_.shift()) - 1;
    uint64_t* const entries = entries_;
    for_each([&](int64_t row, uint64_t e) {
      entries[ends[cells_.of(row)]++] = (static_cast<uint64_t>(row & mask) << kOffsetBits) | e;
    });
  }

  // Numbers the distinct rows of one cell as they are met, and lists the entries of each.
  template <bool Direct>
  void number(size_t cell, int64_t begin, int64_t end) {
    uint32_t* const table = scratch_.table;  // row or its slot -> 1 + its number in the cell
    uint32_t* const counts = scratch_.next;
    int64_t* const rows = out_.rows + num_rows_;
    int64_t* const places = out_.places;
    const int64_t slots = Direct ? 0 : hash_slots(end - begin);
    const int drop = Direct ? 0 : 64 - __builtin_ctzll(static_cast<uint64_t>(slots));
    uint32_t found = 0;
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t row = entries_[i] >> kOffsetBits, e = entries_[i] & kEntryMask;
      uint64_t slot = row;
      uint32_t number = 0;
      if (Direct) {
        number = table[slot];
      } else {
        slot = (row * kSpread) >> drop;
        while ((number = table[slot]) != 0 && static_cast<uint64_t>(rows[number - 1]) != row)
          slot = (slot + 1) & static_cast<uint64_t>(slots - 1);
      }
      // Without branches: whether a row was seen before is what a processor cannot predict.
      const bool is_new = number == 0;
      rows[found] = static_cast<int64_t>(row);
      counts[found] = 0;
      found += is_new;
      number = is_new ? found : number;
      table[slot] = number;
      ++counts[number - 1];
      places[e] = num_rows_ + number - 1;
    }
    if (Direct) {
      for (uint32_t u = 0; u < found; ++u) table[rows[u]] = 0;
    } else {
      std::fill(table, table + slots, 0);
    }
    list(begin, end, found);
    const int64_t owner = cells_[cell].owner;
    const int64_t first = ((cells_[cell].end - 1) >> cells_.shift() << cells_.shift()) -
                          bounds_[static_cast<size_t>(owner)];
    for (uint32_t u = 0; u < found; ++u) rows[u] += first;
    out_.counts[owner] += found;
    num_rows_ += found;
  }

  void list(int64_t begin, int64_t end, uint32_t found) {
    uint32_t* const starts = out_.starts + num_rows_;
    uint32_t* const cursors = scratch_.next;
    uint32_t at = static_cast<uint32_t>(begin);
    for (uint32_t u = 0; u < found; ++u) {
      const uint32_t count = cursors[u];
      starts[u] = cursors[u] = at;
      at += count;
    }
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t e = entries_[i] & kEntryMask;
      const int64_t u = out_.places[e] - num_rows_;
      out_.order[cursors[u]++] = static_cast<uint32_t>(e);
    }
  }

  static constexpr uint64_t kSpread = 0x9E3779B97F4A7C15;

  const std::vector<RowRun>& runs_;
  const std::vector<int64_t>& bounds_;
  const Distinct& out_;
  Cells cells_;
  Lease workspace_;
  Scratch scratch_{};
  uint64_t* entries_ = nullptr;
  int64_t* ends_ = nullptr;
  int64_t num_rows_ = 0;
};

}  // namespace

void find_distinct(const std::vector<RowRun>& runs, int64_t num_entries,
                   const std::vector<int64_t>& bounds, const Distinct& out) {
  if (num_entries >= std::numeric_limits<uint32_t>::max())
    throw std::invalid_argument("a batch with 2^32 lookups is too large");
  std::fill(out.counts, out.counts + bounds.size() - 1, 0);
  if (num_entries > 0)
    Search(runs, num_entries, bounds, out).run();
  else
    out.starts[0] = 0;
}

void sum_gradients(const BatchRows& batch, const float* gradient, int64_t width,
                   const uint32_t* order, const uint32_t* starts,
                   const std::vector<SumOutput>& outputs, int threads) {
  const Loops& isa = loops();
  const Plan plan(batch, width);
  Lease workspace;
  uint64_t* const offsets = workspace->entries.reserve(plan.num_entries);
  float* const scaled = workspace->scaled.reserve(plan.scaled_size);
  plan.scale(isa, gradient, scaled, 0, 1);
  uint64_t* next = offsets;
  for (const Chunk& chunk : plan.chunks)
    chunk.for_each([&](int64_t, uint64_t offset) { *next++ = offset; });
  int64_t first = 0;
  for (const SumOutput& output : outputs) {
    const SumTask task{width, {gradient, scaled}, offsets, order, starts + first, output.out,
                       output.stride};
    const int64_t rows = output.rows;
#pragma omp parallel for schedule(dynamic) num_threads(threads) \
    if (threads > 1 && rows > kSmallSum)
    for (int64_t u = 0; u < rows; u += kSumRows)
      isa.sum_gradients(task, u, std::min(u + kSumRows, rows));
    first += rows;
  }
}

}  // namespace muxtable
