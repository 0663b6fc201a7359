// Coded rows to floats: sixteen values at a time, straight from the table.

namespace muxtable {
namespace MUXTABLE_ISA {
namespace {

constexpr int64_t kCodecAhead = 32;  // rows asked for ahead
// A row's codes are read sixteen at a time; what is read behind a row's end goes no further.
constexpr int64_t kReadBehind = 64;

typedef int32_t Ints __attribute__((vector_size(4 * kPartLanes)));
typedef uint8_t LooseBytes
    __attribute__((vector_size(kPartLanes), aligned(1), may_alias));
typedef uint16_t LooseShorts
    __attribute__((vector_size(2 * kPartLanes), aligned(1), may_alias));
typedef float LooseFloats
    __attribute__((vector_size(4 * kPartLanes), aligned(1), may_alias));
typedef int32_t LooseInts
    __attribute__((vector_size(4 * kPartLanes), aligned(4), may_alias));

struct IntChunk {
  Ints part[kParts];
};

template <typename T>
MUXTABLE_INLINE T read(const uint8_t* p) {
  T value;
  __builtin_memcpy(&value, p, sizeof(T));
  return value;
}

template <typename T>
MUXTABLE_INLINE void write(uint8_t* p, T value) {
  __builtin_memcpy(p, &value, sizeof(T));
}

MUXTABLE_INLINE float float_of(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

MUXTABLE_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

MUXTABLE_INLINE float half_to_float(uint16_t half) {
  uint32_t bits = (half & 0x7FFFu) << 13;
  const uint32_t exponent = bits & (0x7C00u << 13);
  bits += 112u << 23;
  if (exponent == 0x7C00u << 13)
    bits += 112u << 23;
  else if (exponent == 0)
    bits = bits_of(float_of(bits + (1u << 23)) - float_of(113u << 23));
  return float_of(bits | (half & 0x8000u) << 16);
}

// Asks for the cache lines of a row.
MUXTABLE_INLINE void prefetch_bytes(const uint8_t* row, int64_t bytes) {
  for (int64_t j = 0; j < bytes; j += 64) __builtin_prefetch(row + j, 0, 3);
  __builtin_prefetch(row + bytes - 1, 0, 3);
}

// Of every lane: a where the mask (-1 or 0) is set, else b.
MUXTABLE_INLINE Ints choose_ints(Ints mask, Ints a, Ints b) { return (a & mask) | (b & ~mask); }

// Floats with fewer bits: `bits` hold exponent and mantissa where float32 has them, `lift` is the
// difference of the exponents' offsets. Exponent 0 means no leading one.
MUXTABLE_INLINE Part widened(Ints bits, Ints exponent, int32_t lift) {
  const Ints lifted = bits + (lift << 23);
  const Part least = Part{} + float_of(static_cast<uint32_t>(lift + 1) << 23);
  const Part small = (Part)(lifted + (1 << 23)) - least;
  return (Part)choose_ints(exponent == 0, (Ints)small, lifted);
}

// Sixteen codes of a byte, of two bytes, of four bits, of two bits, of one bit.
MUXTABLE_INLINE IntChunk bytes_at(const uint8_t* codes) {
  IntChunk out;
  MUXTABLE_FOR_PARTS
  out.part[p] = __builtin_convertvector(
      *reinterpret_cast<const LooseBytes*>(codes + p * kPartLanes), Ints);
  return out;
}

MUXTABLE_INLINE IntChunk shorts_at(const uint8_t* codes) {
  IntChunk out;
  MUXTABLE_FOR_PARTS
  out.part[p] = __builtin_convertvector(
      *reinterpret_cast<const LooseShorts*>(codes + 2 * p * kPartLanes), Ints);
  return out;
}

alignas(64) constexpr int32_t kNibbles[kLanes] = {0, 4, 8, 12, 16, 20, 24, 28,
                                                  0, 4, 8, 12, 16, 20, 24, 28};
alignas(64) constexpr int32_t kPairs[kLanes] = {0,  2,  4,  6,  8,  10, 12, 14,
                                                16, 18, 20, 22, 24, 26, 28, 30};
alignas(64) constexpr int32_t kBits[kLanes] = {0, 1, 2,  3,  4,  5,  6,  7,
                                               8, 9, 10, 11, 12, 13, 14, 15};
alignas(64) constexpr int32_t kSecondHalf[kLanes] = {0,  0,  0,  0,  0,  0,  0,  0,
                                                     -1, -1, -1, -1, -1, -1, -1, -1};

MUXTABLE_INLINE Ints lanes_of(const int32_t* numbers, int part) {
  return *reinterpret_cast<const LooseInts*>(numbers + part * kPartLanes);
}

MUXTABLE_INLINE IntChunk nibbles_at(const uint8_t* codes) {
  const int32_t low = read<int32_t>(codes), high = read<int32_t>(codes + 4);
  IntChunk out;
  MUXTABLE_FOR_PARTS {
    const Ints word = choose_ints(lanes_of(kSecondHalf, p), Ints{} + high, Ints{} + low);
    out.part[p] = (word >> lanes_of(kNibbles, p)) & 15;
  }
  return out;
}

MUXTABLE_INLINE IntChunk pairs_at(const uint8_t* codes) {
  const int32_t word = read<int32_t>(codes);
  IntChunk out;
  MUXTABLE_FOR_PARTS out.part[p] = ((Ints{} + word) >> lanes_of(kPairs, p)) & 3;
  return out;
}

MUXTABLE_INLINE Chunk floats_of(const IntChunk& codes) {
  Chunk out;
  MUXTABLE_FOR_PARTS out.part[p] = __builtin_convertvector(codes.part[p], Part);
  return out;
}

// What is known of a row before its codes are read, and sixteen of its values from value j on.
struct Float32Row {
  MUXTABLE_INLINE Float32Row(const uint8_t*, const DecodeTask&) {}
  MUXTABLE_INLINE Chunk at(const uint8_t* row, int64_t j) const {
    Chunk out;
    MUXTABLE_FOR_PARTS
    out.part[p] = *reinterpret_cast<const LooseFloats*>(row + 4 * (j + p * kPartLanes));
    return out;
  }
};

struct Float16Row {
  MUXTABLE_INLINE Float16Row(const uint8_t*, const DecodeTask&) {}
  MUXTABLE_INLINE Chunk at(const uint8_t* row, int64_t j) const {
    const IntChunk halves = shorts_at(row + 2 * j);
    Chunk out;
    MUXTABLE_FOR_PARTS {
      const Ints half = halves.part[p], bits = (half & 0x7FFF) << 13;
      const Ints exponent = bits & (0x7C00 << 13);
      const Ints beyond = (exponent == (0x7C00 << 13)) & (112 << 23);
      const Part size = widened(bits, exponent, 112);
      out.part[p] = (Part)(((Ints)size + beyond) | ((half & 0x8000) << 16));
    }
    return out;
  }
};

struct Bfloat16Row {
  MUXTABLE_INLINE Bfloat16Row(const uint8_t*, const DecodeTask&) {}
  MUXTABLE_INLINE Chunk at(const uint8_t* row, int64_t j) const {
    const IntChunk halves = shorts_at(row + 2 * j);
    Chunk out;
    MUXTABLE_FOR_PARTS out.part[p] = (Part)(halves.part[p] << 16);
    return out;
  }
};

struct Int8Row {
  Chunk scale, offset;
  MUXTABLE_INLINE Int8Row(const uint8_t* row, const DecodeTask& task)
      : scale(broadcast(read<float>(row + task.width))),
        offset(broadcast(read<float>(row + task.width + 4))) {}
  MUXTABLE_INLINE Chunk at(const uint8_t* row, int64_t j) const {
    return offset + scale * floats_of(bytes_at(row + j));
  }
};

template <int Bits>
struct SmallRow {
  Chunk scale, offset;
  MUXTABLE_INLINE SmallRow(const uint8_t* row, const DecodeTask& task)
      : scale(broadcast(half_to_float(read<uint16_t>(row + task.row_bytes - 4)))),
        offset(broadcast(half_to_float(read<uint16_t>(row + task.row_bytes - 2)))) {}
  MUXTABLE_INLINE Chunk at(const uint8_t* row, int64_t j) const {
    const uint8_t* const codes = row + j * Bits / 8;
    return offset + scale * floats_of(Bits == 4 ? nibbles_at(codes) : pairs_at(codes));
  }
};

struct Float8Row {
  Chunk scale;
  MUXTABLE_INLINE Float8Row(const uint8_t* row, const DecodeTask& task)
      : scale(broadcast(read<float>(row + task.width))) {}
  MUXTABLE_INLINE Chunk at(const uint8_t* row, int64_t j) const {
    const IntChunk codes = bytes_at(row + j);
    Chunk out;
    MUXTABLE_FOR_PARTS {
      const Ints code = codes.part[p], bits = (code & 0x7F) << 20;
      const Part size = widened(bits, bits & (15 << 23), 120);
      out.part[p] = (Part)((Ints)size | ((code & 0x80) << 24));
    }
    return out * scale;
  }
};

struct BinaryRow {
  float scale;
  uint32_t weight[kMaxPlanes];
  int64_t planes, bytes;
  MUXTABLE_INLINE BinaryRow(const uint8_t* row, const DecodeTask& task)
      : planes(planes_of(task.width, task.row_bytes)), bytes(plane_bytes(task.width)) {
    const uint8_t* const ratios = row + planes * bytes;
    float size = 1;
    weight[0] = bits_of(size);
    for (int64_t n = 1; n < planes; ++n) {
      size *= static_cast<float>(ratios[n - 1]) / 255.0f;
      weight[n] = bits_of(size);
    }
    scale = half_to_float(read<uint16_t>(row + task.row_bytes - 2));
  }
  MUXTABLE_INLINE Chunk at(const uint8_t* row, int64_t j) const {
    Chunk out = broadcast(0);
    for (int64_t n = 0; n < planes; ++n) {
      const int32_t minus = ~read<uint16_t>(row + n * bytes + j / 8);
      MUXTABLE_FOR_PARTS {
        const Ints sign = ((Ints{} + minus) >> lanes_of(kBits, p)) << 31;
        out.part[p] = out.part[p] + (Part)(sign ^ static_cast<int32_t>(weight[n]));
      }
    }
    return out * broadcast(scale);
  }
};

// Calls visit(output, row) for every row, asking for each well before its turn. A row near the end
// of the table is copied first, so that nothing behind the table is read.
template <typename Visit>
MUXTABLE_INLINE void visit_coded(const DecodeTask& task, int64_t first, int64_t last,
                                 const Visit& visit) {
  const int64_t stride = task.raw_stride, bytes = task.row_bytes;
  const int64_t safe = (task.raw_rows - 1) * stride - kReadBehind;
  alignas(64) uint8_t copy[kMaxCodedBytes + kReadBehind];
  if (task.rows != nullptr)
    for (int64_t i = first; i < last && i < first + kCodecAhead; ++i)
      prefetch_bytes(task.raw + task.rows[i] * stride, bytes);
  for (int64_t i = first; i < last; ++i) {
    if (task.rows != nullptr && i + kCodecAhead < last)
      prefetch_bytes(task.raw + task.rows[i + kCodecAhead] * stride, bytes);
    const int64_t at = (task.rows != nullptr ? task.rows[i] : i) * stride;
    const uint8_t* row = task.raw + at;
    if (at > safe) {
      __builtin_memcpy(copy, row, static_cast<uint64_t>(bytes));
      row = copy;
    }
    visit(task.out + i * task.out_stride, row);
  }
}

template <typename Coded>
void decode_rows(const DecodeTask& task, int64_t first, int64_t last) {
  const int64_t whole = task.width / kLanes * kLanes;
  const Tail tail = tail_of(static_cast<int>(task.width % kLanes));
  visit_coded(task, first, last, [&](float* out, const uint8_t* row)
                                     __attribute__((always_inline)) {
    const Coded coded(row, task);
    for (int64_t j = 0; j < whole; j += kLanes) store(out + j, coded.at(row, j));
    if (whole < task.width) store(out + whole, coded.at(row, whole), tail);
  });
}

// `Part` floats of each entry, any number of them where it is 0.
template <int Width>
void decode_parts(const DecodeTask& task, int64_t first, int64_t last) {
  const int64_t width = Width ? Width : task.width / task.parts;
  visit_coded(task, first, last, [&](float* out, const uint8_t* row)
                                     __attribute__((always_inline)) {
    const float* entries = task.codebook;
    for (int64_t m = 0; m < task.parts; ++m, entries += kEntries * width, out += width) {
      const float* const entry = entries + row[m] * width;
      if (Width)
        __builtin_memcpy(out, entry, sizeof(float) * Width);
      else
        for (int64_t j = 0; j < width; ++j) out[j] = entry[j];
    }
  });
}

void decode_pq(const DecodeTask& task, int64_t first, int64_t last) {
  switch (task.width / task.parts) {
    case 2:
      return decode_parts<2>(task, first, last);
    case 4:
      return decode_parts<4>(task, first, last);
    case 8:
      return decode_parts<8>(task, first, last);
    case 16:
      return decode_parts<16>(task, first, last);
    default:
      return decode_parts<0>(task, first, last);
  }
}

void decode(const DecodeTask& task, int64_t first, int64_t last) {
  switch (task.kind) {
    case kFloat32:
      return decode_rows<Float32Row>(task, first, last);
    case kFloat16:
      return decode_rows<Float16Row>(task, first, last);
    case kBfloat16:
      return decode_rows<Bfloat16Row>(task, first, last);
    case kInt8:
      return decode_rows<Int8Row>(task, first, last);
    case kInt4:
      return decode_rows<SmallRow<4>>(task, first, last);
    case kInt2:
      return decode_rows<SmallRow<2>>(task, first, last);
    case kFloat8:
      return decode_rows<Float8Row>(task, first, last);
    case kBinary:
      return decode_rows<BinaryRow>(task, first, last);
    case kPq:
      return decode_pq(task, first, last);
  }
}

typedef uint64_t LoosePair __attribute__((vector_size(16), aligned(1), may_alias));

// Sixteen bytes at a time, the last sixteen overlapping those before.
void copy_coded(const CopyTask& task, int64_t first, int64_t last) {
  const int64_t bytes = task.row_bytes, stride = task.raw_stride;
  for (int64_t i = first; i < last && i < first + kCodecAhead; ++i)
    prefetch_bytes(task.raw + task.rows[i] * stride, bytes);
  for (int64_t i = first; i < last; ++i) {
    if (i + kCodecAhead < last)
      prefetch_bytes(task.raw + task.rows[i + kCodecAhead] * stride, bytes);
    const uint8_t* const row = task.raw + task.rows[i] * stride;
    uint8_t* const out = task.out + i * task.out_stride;
    if (bytes >= 16) {
      int64_t j = 0;
      for (; j + 16 < bytes; j += 16)
        *reinterpret_cast<LoosePair*>(out + j) = *reinterpret_cast<const LoosePair*>(row + j);
      *reinterpret_cast<LoosePair*>(out + bytes - 16) =
          *reinterpret_cast<const LoosePair*>(row + bytes - 16);
    } else if (bytes >= 8) {
      const uint64_t head = read<uint64_t>(row), end = read<uint64_t>(row + bytes - 8);
      write(out, head);
      write(out + bytes - 8, end);
    } else {
      for (int64_t j = 0; j < bytes; ++j) out[j] = row[j];
    }
  }
}

void affine(const AffineTask& task, int64_t first, int64_t last) {
  const int64_t whole = task.width / kLanes * kLanes;
  const Tail tail = tail_of(static_cast<int>(task.width % kLanes));
  for (int64_t i = first; i < last; ++i) {
    const float* const row = task.rows + i * task.stride;
    float* const out = task.out + i * task.out_stride;
    for (int64_t j = 0; j < whole; j += kLanes) {
      Chunk total = load(task.offset + j);
      for (int64_t k = 0; k < task.terms; ++k)
        total = total + broadcast(row[k]) * load(task.weights + k * task.weight_stride + j);
      store(out + j, total);
    }
    if (whole == task.width) continue;
    Chunk total = load(task.offset + whole, tail);
    for (int64_t k = 0; k < task.terms; ++k)
      total = total + broadcast(row[k]) * load(task.weights + k * task.weight_stride + whole, tail);
    store(out + whole, total, tail);
  }
}

}  // namespace
}  // namespace MUXTABLE_ISA
}  // namespace muxtable
