// Rows to vectors. Random rows come from far memory, so each is asked for well before its turn.

namespace muxtable {
namespace MUXTABLE_ISA {
namespace {

constexpr int64_t kGatherAhead = 64;  // rows asked for ahead; 48 to 192 measured alike
constexpr int64_t kTile = 2048;       // row numbers transposed at a time: they stay in the L1 cache
constexpr int64_t kTileLookups = 256;

// Copies the tile's rows, sample by sample: the output is written from front to back.
struct CopyTile {
  const GatherTask& task;
  const int64_t* tile;  // [samples, lookups]: offsets of rows in the table, in floats
  int64_t first_sample, samples, first_lookup, lookups;

  template <int Chunks, bool Partial, bool Streaming>
  MUXTABLE_INLINE void copy() const {
    const Tail tail = tail_of(static_cast<int>(task.width % kLanes));
    const int64_t last = task.width - 1, count = samples * lookups;
    const float* const table = task.table;
    const int64_t* const columns = task.columns + first_lookup;
    for (int64_t i = 0; i < kGatherAhead && i < count; ++i)
      prefetch_row<Chunks, false>(table + tile[i], last);
    int64_t i = 0;
    for (int64_t b = 0; b < samples; ++b) {
      float* const out = task.out + (first_sample + b) * task.out_stride;
      for (int64_t l = 0; l < lookups; ++l, ++i) {
        if (i + kGatherAhead < count)
          prefetch_row<Chunks, false>(table + tile[i + kGatherAhead], last);
        const auto row = Row<Chunks, Partial>::load_from(table + tile[i], tail);
        float* const to = out + columns[l];
        if (Streaming) {
          for (int c = 0; c < Chunks; ++c) stream(to + kLanes * c, row.chunk[c]);
        } else {
          row.store_to(to, tail);
        }
      }
    }
  }

  template <int Chunks, bool Partial>
  int run() const {
    if constexpr (!Partial) {
      if (task.streaming) {
        copy<Chunks, false, true>();
        return 0;
      }
    }
    copy<Chunks, Partial, false>();
    return 0;
  }

  int run_wide() const {
    const int64_t count = samples * lookups, last = task.width - 1, ahead = wide_ahead(task.width);
    for (int64_t i = 0; i < ahead && i < count; ++i)
      prefetch_row<0, false>(task.table + tile[i], last);
    for (int64_t b = 0, i = 0; b < samples; ++b) {
      float* const out = task.out + (first_sample + b) * task.out_stride;
      for (int64_t l = 0; l < lookups; ++l, ++i) {
        if (i + ahead < count) prefetch_row<0, false>(task.table + tile[i + ahead], last);
        __builtin_memcpy(out + task.columns[first_lookup + l], task.table + tile[i],
                         static_cast<uint64_t>(task.width) * sizeof(float));
      }
    }
    return 0;
  }
};

void gather(const GatherTask& task, int64_t first, int64_t last) {
  int64_t tile[kTile];
  for (int64_t l0 = 0; l0 < task.num_lookups; l0 += kTileLookups) {
    const int64_t left = task.num_lookups - l0;
    const int64_t lookups = left < kTileLookups ? left : kTileLookups;
    const int64_t most = kTile / lookups;
    for (int64_t b0 = first; b0 < last; b0 += most) {
      const int64_t samples = last - b0 < most ? last - b0 : most;
      // Batches are powers of two, and columns that far apart fall into one set of the cache:
      // each is read once, in a run, instead of sample by sample.
      for (int64_t l = 0; l < lookups; ++l) {
        const int64_t* const rows = task.rows + (l0 + l) * task.row_stride + b0;
        for (int64_t b = 0; b < samples; ++b) tile[b * lookups + l] = rows[b] * task.table_stride;
      }
      with_width(task.width, CopyTile{task, tile, b0, samples, l0, lookups});
    }
  }
  if (task.streaming) stream_fence();
}

// Pools columns [from, from + width) of the bags [first, last) of one lookup.
struct PoolBags {
  const BagTask& task;
  int64_t lookup, first, last, from, width;

  template <int Chunks, bool Partial>
  int run() const {
    const Tail tail = tail_of(static_cast<int>(width % kLanes));
    const int64_t* const rows = task.rows + lookup * task.row_stride;
    const int64_t end_of_all = task.offsets[last];
    const float* const table = task.table + from;
    float* out = task.out + first * task.out_stride + lookup * task.width + from;
    for (int64_t b = first; b < last; ++b, out += task.out_stride) {
      const int64_t begin = task.offsets[b], end = task.offsets[b + 1];
      Row<Chunks, Partial> pooled;
      for (int c = 0; c < Chunks; ++c) pooled.chunk[c] = broadcast(0);
      for (int64_t i = begin; i < end; ++i) {
        if (i + kGatherAhead < end_of_all)
          prefetch_row<Chunks, false>(table + rows[i + kGatherAhead] * task.table_stride,
                                      width - 1);
        pooled.add(Row<Chunks, Partial>::load_from(table + rows[i] * task.table_stride, tail));
      }
      if (task.mean && end > begin) {
        const Chunk scale = broadcast(1.0f / static_cast<float>(end - begin));
        for (int c = 0; c < Chunks; ++c) pooled.chunk[c] = pooled.chunk[c] * scale;
      }
      pooled.store_to(out, tail);
    }
    return 0;
  }

  int run_wide() const { return 0; }  // not reached: wide rows come in pieces of 128
};

void gather_bags(const BagTask& task, int64_t first, int64_t last) {
  constexpr int64_t kPiece = 8 * kLanes;
  for (int64_t k = 0; k < task.num_lookups; ++k)
    for (int64_t from = 0; from < task.width; from += kPiece) {
      const int64_t left = task.width - from;
      const int64_t width = left < kPiece ? left : kPiece;
      with_width(width, PoolBags{task, k, first, last, from, width});
    }
}

}  // namespace
}  // namespace MUXTABLE_ISA
}  // namespace muxtable
