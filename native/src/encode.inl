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

// The smaller, or the larger, of every two lanes.
MUXTABLE_INLINE Chunk smaller(const Chunk& a, const Chunk& b) {
  Chunk out;
  MUXTABLE_FOR_PARTS
  out.part[p] = (Part)choose_ints(a.part[p] < b.part[p], (Ints)a.part[p], (Ints)b.part[p]);
  return out;
}

MUXTABLE_INLINE Chunk larger(const Chunk& a, const Chunk& b) {
  Chunk out;
  MUXTABLE_FOR_PARTS
  out.part[p] = (Part)choose_ints(a.part[p] > b.part[p], (Ints)a.part[p], (Ints)b.part[p]);
  return out;
}

struct Extremes {
  float low, high;
};

MUXTABLE_INLINE Extremes extremes(const float* row, int64_t width) {
  float lows[kLanes], highs[kLanes];
  if (width >= kLanes) {
    // The last sixteen overlap those before.
    Chunk low = load(row + width - kLanes), high = low;
    for (int64_t j = 0; j + kLanes < width; j += kLanes) {
      const Chunk values = load(row + j);
      low = smaller(values, low);
      high = larger(values, high);
    }
    store(lows, low);
    store(highs, high);
  } else {
    for (int l = 0; l < kLanes; ++l) lows[l] = highs[l] = row[l < width ? l : 0];
  }
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) {
      lows[l] = lows[l + half] < lows[l] ? lows[l + half] : lows[l];
      highs[l] = highs[l + half] > highs[l] ? highs[l + half] : highs[l];
    }
  // Adding zero turns -0 into 0: which of the two is the smallest would depend on the order.
  return {lows[0] + 0.0f, highs[0]};
}

// Codes sixteen values at a time by encode(values, codes), the last ones completed with zeros.
template <typename Encode>
MUXTABLE_INLINE void in_sixteens(const float* row, int64_t width, uint8_t* out,
                                 const Encode& encode) {
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) encode(row + j, out + j);
  if (j == width) return;
  float values[kLanes] = {};
  uint8_t codes[kLanes];
  for (int64_t l = 0; j + l < width; ++l) values[l] = row[j + l];
  encode(values, codes);
  __builtin_memcpy(out + j, codes, static_cast<uint64_t>(width - j));
}

// A word of as many bytes as a byte holds codes.
template <int Bits>
struct CodesOfByte;
template <>
struct CodesOfByte<4> {
  typedef uint16_t Word;
};
template <>
struct CodesOfByte<2> {
  typedef uint32_t Word;
};

#define MUXTABLE_FOR_LANES for (int l = 0; l < kLanes; ++l)
#define MUXTABLE_ALWAYS __attribute__((always_inline))

uint32_t largest_bits(const float* values, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t size = bits_of(values[i]) & 0x7FFFFFFFu;
    largest = size > largest ? size : largest;
  }
  return largest;
}

void encode_float16(const float* row, int64_t width, uint8_t* out, int64_t) {
  // One loop over the row: sixteen at a time the compiler unrolls it and makes no vectors of it.
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
  in_sixteens(row, width, out, [=](const float* values, uint8_t* codes) MUXTABLE_ALWAYS {
    MUXTABLE_FOR_LANES {
      const double code = ((values[l] - low) * inverse + kRound) - kRound;
      codes[l] = static_cast<uint8_t>(static_cast<int32_t>(code));
    }
  });
  write(out + width, static_cast<float>(span / 255));
  write(out + width + 4, ends.low);
}

template <int Bits>
void encode_small(const float* row, int64_t width, uint8_t* out, int64_t row_bytes) {
  typedef typename CodesOfByte<Bits>::Word Word;
  constexpr int64_t kLevels = (1 << Bits) - 1;
  const Extremes ends = extremes(row, width);
  const uint16_t offset_bits = float_to_half(ends.low);
  const double offset = half_to_float(offset_bits);
  const double step = (ends.high - offset) / kLevels;
  const uint16_t scale_bits = float_to_half(static_cast<float>(step > 0 ? step : 0));
  const double scale = half_to_float(scale_bits);
  const double inverse = scale > 0 ? 1 / scale : 0;
  alignas(64) uint8_t codes[kMaxCodecWidth + kLanes * sizeof(Word)];
  in_sixteens(row, width, codes, [=](const float* values, uint8_t* to) MUXTABLE_ALWAYS {
    MUXTABLE_FOR_LANES {
      double code = (values[l] - offset) * inverse;
      code = code > 0 ? code : 0;
      code = code < kLevels ? code : kLevels;
      to[l] = static_cast<uint8_t>(static_cast<int32_t>((code + kRound) - kRound));
    }
  });
  for (size_t j = 0; j < sizeof(Word); ++j) codes[width + static_cast<int64_t>(j)] = 0;
  // The codes of a byte lie in a word, the first in its lowest byte.
  const int64_t bytes = row_bytes - 4;
  uint8_t packed[kLanes];
  for (int64_t b = 0; b < bytes; b += kLanes) {
    MUXTABLE_FOR_LANES {
      const Word word = read<Word>(codes + (b + l) * static_cast<int64_t>(sizeof(Word)));
      uint32_t byte = word;
      for (size_t place = 1; place < sizeof(Word); ++place) byte |= word >> (place * (8 - Bits));
      packed[l] = static_cast<uint8_t>(byte);
    }
    const int64_t left = bytes - b;
    if (left >= kLanes)
      __builtin_memcpy(out + b, packed, kLanes);
    else
      __builtin_memcpy(out + b, packed, static_cast<uint64_t>(left));
  }
  write(out + bytes, scale_bits);
  write(out + bytes + 2, offset_bits);
}

void encode_float8(const float* row, int64_t width, uint8_t* out, int64_t) {
  const float largest = float_of(largest_bits(row, width));
  const float scale = largest / 448.0f, divisor = scale > 0 ? scale : 1;
  in_sixteens(row, width, out, [=](const float* values, uint8_t* codes) MUXTABLE_ALWAYS {
    MUXTABLE_FOR_LANES {
      const float value = values[l] / divisor;
      const float size = float_of(bits_of(value) & 0x7FFFFFFFu);
      const uint32_t code = size_to_float8(size < 448.0f ? size : 448.0f);
      codes[l] = static_cast<uint8_t>(code | (bits_of(value) >> 24 & 0x80u));
    }
  });
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

// The nearest of 256 entries, the first among equals: each lane keeps the nearest it saw, then the
// lanes are compared. `Width` values of a part, any number of them where it is 0.
template <int Width>
MUXTABLE_INLINE int32_t nearest_entry(const float* values, const float* columns, int64_t any) {
  const int64_t width = Width ? Width : any;
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
  float lanes[kLanes];
  int32_t entries[kLanes];
  store(lanes, nearest);
  __builtin_memcpy(entries, &at, sizeof at);
  float least[kLanes];
  MUXTABLE_FOR_LANES least[l] = lanes[l];
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) least[l] = least[l + half] < least[l] ? least[l + half] : least[l];
  MUXTABLE_FOR_LANES entries[l] = lanes[l] == least[0] ? entries[l] : kEntries;
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l)
      entries[l] = entries[l + half] < entries[l] ? entries[l + half] : entries[l];
  return entries[0];
}

template <int Width>
void encode_parts(const EncodePqTask& task, int64_t first, int64_t last) {
  const int64_t width = Width ? Width : task.part_width;
  for (int64_t i = first; i < last; ++i) {
    const float* const values = task.rows + i * task.stride;
    uint8_t* const out = task.out + i * task.out_stride;
    for (int64_t m = 0; m < task.parts; ++m)
      out[m] = static_cast<uint8_t>(nearest_entry<Width>(
          values + m * width, task.columns + m * width * kEntries, width));
  }
}

void encode_pq(const EncodePqTask& task, int64_t first, int64_t last) {
  switch (task.part_width) {
    case 2:
      return encode_parts<2>(task, first, last);
    case 4:
      return encode_parts<4>(task, first, last);
    default:
      return encode_parts<0>(task, first, last);
  }
}

}  // namespace
}  // namespace MUXTABLE_ISA
}  // namespace muxtable
