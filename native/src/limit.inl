// The fastest way to touch rows at random and in order, doing nothing with them.

namespace muxtable {
namespace MUXTABLE_ISA {
namespace {

constexpr int64_t kLimitAhead = 64;

void copy_rows(const float* table, int64_t stride, const int64_t* rows, int64_t n, float* out,
               bool streaming) {
  for (int64_t i = 0; i < n; ++i, out += 2 * kLanes) {
    if (i + kLimitAhead < n)
      prefetch_row<2, false>(table + rows[i + kLimitAhead] * stride, 2 * kLanes - 1);
    const float* const row = table + rows[i] * stride;
    if (streaming) {
      stream(out, load(row));
      stream(out + kLanes, load(row + kLanes));
    } else {
      store(out, load(row));
      store(out + kLanes, load(row + kLanes));
    }
  }
  if (streaming) stream_fence();
}

void change_rows(float* table, int64_t stride, const int64_t* rows, int64_t n) {
  const Chunk zero = broadcast(0);
  for (int64_t i = 0; i < n; ++i) {
    if (i + kLimitAhead < n)
      prefetch_row<2, true>(table + rows[i + kLimitAhead] * stride, 2 * kLanes - 1);
    float* const row = table + rows[i] * stride;
    store(row, zero - load(row));
    store(row + kLanes, zero - load(row + kLanes));
  }
}

float read_all(const float* data, int64_t n) {
  Chunk total[4] = {broadcast(0), broadcast(0), broadcast(0), broadcast(0)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int c = 0; c < 4; ++c) total[c] = total[c] + load(data + i + c * kLanes);
  float rest = 0;
  for (; i < n; ++i) rest += data[i];
  return rest + sum((total[0] + total[1]) + (total[2] + total[3]));
}

}  // namespace
}  // namespace MUXTABLE_ISA
}  // namespace muxtable
