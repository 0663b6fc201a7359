// Floats to coded rows. Plain loops over a row: the compiler makes vectors of them, and no sum or
// extreme depends on how.

namespace muxtable {
namespace MUXTABLE_ISA {
namespace {

// The largest float below 2^-14 and 2^-6 count steps of the last place of these.
constexpr float kHalfStep = 0.5f;
constexpr float kFloat8Step = 16384.0f;
// Adding and taking away rounds to the nearest integer, ties to even.
constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52

MUXTABLE_INLINE uint16_t float_to_half(float value) {
  const uint32_t bits = bits_of(value), size = bits & 0x7FFFFFFFu;
  const uint32_t normal = (size - (112u << 23) + 0xFFFu + ((size >> 13) & 1)) >> 13;
  const uint32_t small = bits_of(float_of(size) + kHalfStep) - bits_of(kHalfStep);
  const uint32_t within = size < (113u << 23) ? small : normal;
  // From halfway between 65504 and 65536 on it is an infinity.
  const uint32_t half = size >= 0x477FF000u ? 0x7C00u : within;
  return static_cast<uint16_t>(half | (bits >> 16 & 0x8000u));
}

// E4M3 of a size of at most 448.
MUXTABLE_INLINE uint32_t size_to_float8(float value) {
  const uint32_t size = bits_of(value);
  const uint32_t normal = (size - (120u << 23) + 0x7FFFFu + ((size >> 20) & 1)) >> 20;
  const uint32_t small = bits_of(value + kFloat8Step) - bits_of(kFloat8Step);
  return size < (121u << 23) ? small : normal;
}

struct Extremes {
  float low, high;
};

MUXTABLE_INLINE Extremes extremes(const float* row, int64_t width) {
  float low[kLanes], high[kLanes];
  for (int l = 0; l < kLanes; ++l) low[l] = high[l] = row[0];
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes)
    for (int l = 0; l < kLanes; ++l) {
      const float value = row[j + l];
      low[l] = value < low[l] ? value : low[l];
      high[l] = value > high[l] ? value : high[l];
    }
  for (int l = 0; j < width; ++j, ++l) {
    low[l] = row[j] < low[l] ? row[j] : low[l];
    high[l] = row[j] > high[l] ? row[j] : high[l];
  }
  Extremes out{low[0], high[0]};
  for (int l = 1; l < kLanes; ++l) {
    out.low = low[l] < out.low ? low[l] : out.low;
    out.high = high[l] > out.high ? high[l] : out.high;
  }
  // Adding zero turns -0 into 0: which of the two is the smallest would depend on the order.
  out.low += 0.0f;
  return out;
}

uint32_t largest_bits(const float* values, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t size = bits_of(values[i]) & 0x7FFFFFFFu;
    largest = size > largest ? size : largest;
  }
  return largest;
}

void encode_float16(const float* row, int64_t width, uint8_t* out, int64_t) {
  for (int64_t j = 0; j < width; ++j) write(out + 2 * j, float_to_half(row[j]));
}

void encode_bfloat16(const float* row, int64_t width, uint8_t* out, int64_t) {
  for (int64_t j = 0; j < width; ++j) {
    const uint32_t bits = bits_of(row[j]);
    write(out + 2 * j, static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1)) >> 16));
  }
}

void encode_int8(const float* row, int64_t width, uint8_t* out, int64_t) {
  const Extremes ends = extremes(row, width);
  const double low = ends.low, span = ends.high - low;
  const double inverse = span > 0 ? 255 / span : 0;
  for (int64_t j = 0; j < width; ++j) {
    const double code = ((row[j] - low) * inverse + kRound) - kRound;
    out[j] = static_cast<uint8_t>(static_cast<int32_t>(code));
  }
  write(out + width, static_cast<float>(span / 255));
  write(out + width + 4, ends.low);
}

template <int Bits>
void encode_small(const float* row, int64_t width, uint8_t* out, int64_t row_bytes) {
  constexpr int64_t kPerByte = 8 / Bits, kLevels = (1 << Bits) - 1;
  const Extremes ends = extremes(row, width);
  const uint16_t offset_bits = float_to_half(ends.low);
  const double offset = half_to_float(offset_bits);
  const double step = (ends.high - offset) / kLevels;
  const uint16_t scale_bits = float_to_half(static_cast<float>(step > 0 ? step : 0));
  const double scale = half_to_float(scale_bits);
  const double inverse = scale > 0 ? 1 / scale : 0;
  uint8_t codes[kMaxCodecWidth + 8];
  for (int64_t j = 0; j < width; ++j) {
    double code = (row[j] - offset) * inverse;
    code = code > 0 ? code : 0;
    code = code < kLevels ? code : kLevels;
    codes[j] = static_cast<uint8_t>(static_cast<int32_t>((code + kRound) - kRound));
  }
  for (int64_t j = width; j < width + kPerByte; ++j) codes[j] = 0;
  for (int64_t b = 0; b < row_bytes - 4; ++b) {
    uint32_t byte = 0;
    for (int64_t place = 0; place < kPerByte; ++place)
      byte |= static_cast<uint32_t>(codes[b * kPerByte + place]) << (Bits * place);
    out[b] = static_cast<uint8_t>(byte);
  }
  write(out + row_bytes - 4, scale_bits);
  write(out + row_bytes - 2, offset_bits);
}

void encode_float8(const float* row, int64_t width, uint8_t* out, int64_t) {
  const float largest = float_of(largest_bits(row, width));
  const float scale = largest / 448.0f, divisor = scale > 0 ? scale : 1;
  for (int64_t j = 0; j < width; ++j) {
    const float value = row[j] / divisor;
    const float size = float_of(bits_of(value) & 0x7FFFFFFFu);
    const uint32_t code = size_to_float8(size < 448.0f ? size : 448.0f);
    out[j] = static_cast<uint8_t>(code | (bits_of(value) >> 24 & 0x80u));
  }
  write(out + width, scale);
}

void encode_binary(const float* row, int64_t width, uint8_t* out, int64_t row_bytes) {
  const int64_t bytes = plane_bytes(width), planes = planes_of(width, row_bytes);
  const double count = static_cast<double>(width);
  double rest[kMaxCodecWidth], value[kMaxCodecWidth];
  double sizes = 0, squares = 0;
  for (int64_t j = 0; j < width; ++j) {
    rest[j] = row[j];
    value[j] = 0;
    sizes += __builtin_fabs(rest[j]);
    squares += rest[j] * rest[j];
  }
  double weight = sizes / count, factor = 1;
  const double norm = __builtin_sqrt(squares / count);
  for (int64_t n = 0; n < planes; ++n) {
    if (n > 0) {
      double left = 0;
      for (int64_t j = 0; j < width; ++j) left += __builtin_fabs(rest[j]);
      const double fraction = weight > 0 ? left / count / weight : 0;
      double ratio = (fraction * 255 + kRound) - kRound;
      ratio = ratio < 255 ? ratio : 255;
      out[planes * bytes + n - 1] = static_cast<uint8_t>(static_cast<int32_t>(ratio));
      weight *= ratio / 255;
      factor *= ratio / 255;
    }
    uint8_t* const plane = out + n * bytes;
    for (int64_t b = 0; b < bytes; ++b) plane[b] = 0;
    for (int64_t j = 0; j < width; ++j) {
      const bool plus = rest[j] >= 0;
      plane[j / 8] = static_cast<uint8_t>(plane[j / 8] | plus << (j % 8));
      rest[j] -= plus ? weight : -weight;
      value[j] += plus ? factor : -factor;
    }
  }
  double length = 0;
  for (int64_t j = 0; j < width; ++j) length += value[j] * value[j];
  length = __builtin_sqrt(length / count);
  write(out + row_bytes - 2, float_to_half(static_cast<float>(length > 0 ? norm / length : 0)));
}

template <void (*Encode)(const float*, int64_t, uint8_t*, int64_t)>
void encode_rows(const EncodeTask& task, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i)
    Encode(task.rows + i * task.stride, task.width, task.out + i * task.out_stride,
           task.row_bytes);
}

void encode_float32(const float* row, int64_t width, uint8_t* out, int64_t) {
  __builtin_memcpy(out, row, static_cast<uint64_t>(width) * sizeof(float));
}

void encode(const EncodeTask& task, int64_t first, int64_t last) {
  switch (task.kind) {
    case kFloat32:
      return encode_rows<encode_float32>(task, first, last);
    case kFloat16:
      return encode_rows<encode_float16>(task, first, last);
    case kBfloat16:
      return encode_rows<encode_bfloat16>(task, first, last);
    case kInt8:
      return encode_rows<encode_int8>(task, first, last);
    case kInt4:
      return encode_rows<encode_small<4>>(task, first, last);
    case kInt2:
      return encode_rows<encode_small<2>>(task, first, last);
    case kFloat8:
      return encode_rows<encode_float8>(task, first, last);
    case kBinary:
      return encode_rows<encode_binary>(task, first, last);
    case kPq:
      return;  // not reached: encode_pq
  }
}

// Each lane keeps the nearest of the entries it saw, the first among equals; then the lanes are
// compared.
void encode_pq(const EncodePqTask& task, int64_t first, int64_t last) {
  const int64_t width = task.part_width;
  for (int64_t i = first; i < last; ++i) {
    const float* values = task.rows + i * task.stride;
    const float* columns = task.columns;
    uint8_t* const out = task.out + i * task.out_stride;
    for (int64_t m = 0; m < task.parts; ++m, values += width, columns += width * kEntries) {
      Chunk nearest = broadcast(0);
      IntChunk at{};
      for (int e = 0; e < kEntries; e += kLanes) {
        Chunk distance = broadcast(0);
        for (int64_t j = 0; j < width; ++j) {
          const Chunk gap = broadcast(values[j]) - load(columns + j * kEntries + e);
          distance = distance + gap * gap;
        }
        MUXTABLE_FOR_PARTS {
          const Ints closer = e == 0 ? Ints{} - 1 : Ints(distance.part[p] < nearest.part[p]);
          nearest.part[p] = (Part)choose_ints(closer, (Ints)distance.part[p], (Ints)nearest.part[p]);
          at.part[p] = choose_ints(closer, lanes_of(kBits, p) + e, at.part[p]);
        }
      }
      float best = nearest.part[0][0];
      int32_t entry = at.part[0][0];
      for (int l = 1; l < kLanes; ++l) {
        const float distance = nearest.part[l / kPartLanes][l % kPartLanes];
        const int32_t number = at.part[l / kPartLanes][l % kPartLanes];
        if (distance < best || (distance == best && number < entry)) {
          best = distance;
          entry = number;
        }
      }
      out[m] = static_cast<uint8_t>(entry);
    }
  }
}

}  // namespace
}  // namespace MUXTABLE_ISA
}  // namespace muxtable
