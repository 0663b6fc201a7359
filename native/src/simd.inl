// Sixteen floats at a time, on whatever registers the instruction set has.
//
// A row is handled in chunks of 16 lanes, the last one partial. Every operation works on each lane
// alone and `sum` adds in a fixed tree, so all instruction sets round alike.

namespace muxtable {
namespace MUXTABLE_ISA {
namespace {

#define MUXTABLE_INLINE __attribute__((always_inline)) inline

constexpr int kLanes = 16;

#if defined(__AVX512F__)
constexpr int kPartLanes = 16;
#elif defined(__AVX2__)
constexpr int kPartLanes = 8;
#else
constexpr int kPartLanes = 4;
#endif
constexpr int kParts = kLanes / kPartLanes;

typedef float Part __attribute__((vector_size(4 * kPartLanes)));
typedef float LoosePart __attribute__((vector_size(4 * kPartLanes), aligned(4), may_alias));

struct Chunk {
  Part part[kParts];
};

#define MUXTABLE_FOR_PARTS for (int p = 0; p < kParts; ++p)

MUXTABLE_INLINE Chunk broadcast(float x) {
  Chunk out;
  MUXTABLE_FOR_PARTS out.part[p] = Part{} + x;
  return out;
}

MUXTABLE_INLINE Chunk operator+(const Chunk& a, const Chunk& b) {
  Chunk out;
  MUXTABLE_FOR_PARTS out.part[p] = a.part[p] + b.part[p];
  return out;
}

MUXTABLE_INLINE Chunk operator-(const Chunk& a, const Chunk& b) {
  Chunk out;
  MUXTABLE_FOR_PARTS out.part[p] = a.part[p] - b.part[p];
  return out;
}

MUXTABLE_INLINE Chunk operator*(const Chunk& a, const Chunk& b) {
  Chunk out;
  MUXTABLE_FOR_PARTS out.part[p] = a.part[p] * b.part[p];
  return out;
}

MUXTABLE_INLINE Chunk operator/(const Chunk& a, const Chunk& b) {
  Chunk out;
  MUXTABLE_FOR_PARTS out.part[p] = a.part[p] / b.part[p];
  return out;
}

MUXTABLE_INLINE Chunk root(const Chunk& a) {
  Chunk out;
#if defined(__AVX512F__)
  out.part[0] = _mm512_sqrt_ps(a.part[0]);
#elif defined(__AVX2__)
  MUXTABLE_FOR_PARTS out.part[p] = _mm256_sqrt_ps(a.part[p]);
#elif defined(__x86_64__)
  MUXTABLE_FOR_PARTS out.part[p] = _mm_sqrt_ps(a.part[p]);
#else
  MUXTABLE_FOR_PARTS
  for (int j = 0; j < kPartLanes; ++j) out.part[p][j] = __builtin_sqrtf(a.part[p][j]);
#endif
  return out;
}

// Lanes j and j + 8, then j and j + 4, then 2, then 1.
MUXTABLE_INLINE float sum(const Chunk& a) {
#if defined(__x86_64__)
#if defined(__AVX512F__)
  const __m256 eight = _mm512_castps512_ps256(a.part[0]) + _mm512_extractf32x8_ps(a.part[0], 1);
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
#elif defined(__AVX2__)
  const __m256 eight = a.part[0] + a.part[1];
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
#else
  const __m128 four = (a.part[0] + a.part[2]) + (a.part[1] + a.part[3]);
#endif
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
  float lanes[kLanes];
  MUXTABLE_FOR_PARTS
  for (int j = 0; j < kPartLanes; ++j) lanes[p * kPartLanes + j] = a.part[p][j];
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  return lanes[0];
#endif
}

MUXTABLE_INLINE Chunk load(const float* p0) {
  Chunk out;
  MUXTABLE_FOR_PARTS
  out.part[p] = *reinterpret_cast<const LoosePart*>(p0 + p * kPartLanes);
  return out;
}

MUXTABLE_INLINE void store(float* p0, const Chunk& a) {
  MUXTABLE_FOR_PARTS *reinterpret_cast<LoosePart*>(p0 + p * kPartLanes) = a.part[p];
}

// Which lanes of the last chunk exist.
struct Tail {
#if defined(__AVX512F__)
  __mmask16 mask;
#elif defined(__AVX2__)
  __m256i mask[2];
#else
  int count;
#endif
};

MUXTABLE_INLINE Tail tail_of(int count) {
#if defined(__AVX512F__)
  return {static_cast<__mmask16>((1u << count) - 1)};
#elif defined(__AVX2__)
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {{_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes),
           _mm256_cmpgt_epi32(_mm256_set1_epi32(count - 8), lanes)}};
#else
  return {count};
#endif
}

// Loads the lanes that exist, zeros in the others; touches no memory behind them.
MUXTABLE_INLINE Chunk load(const float* p0, const Tail& tail) {
  Chunk out;
#if defined(__AVX512F__)
  // No wider than the row: a load that covers a neighbour waits for the neighbour's last store.
  if (tail.mask <= 0xF)
    out.part[0] = _mm512_zextps128_ps512(_mm_maskz_loadu_ps(tail.mask, p0));
  else if (tail.mask <= 0xFF)
    out.part[0] = _mm512_zextps256_ps512(_mm256_maskz_loadu_ps(tail.mask, p0));
  else
    out.part[0] = _mm512_maskz_loadu_ps(tail.mask, p0);
#elif defined(__AVX2__)
  MUXTABLE_FOR_PARTS out.part[p] = _mm256_maskload_ps(p0 + 8 * p, tail.mask[p]);
#else
  float lanes[kLanes] = {};
  for (int j = 0; j < tail.count; ++j) lanes[j] = p0[j];
  out = load(lanes);
#endif
  return out;
}

MUXTABLE_INLINE void store(float* p0, const Chunk& a, const Tail& tail) {
#if defined(__AVX512F__)
  if (tail.mask <= 0xF)
    _mm_mask_storeu_ps(p0, tail.mask, _mm512_castps512_ps128(a.part[0]));
  else if (tail.mask <= 0xFF)
    _mm256_mask_storeu_ps(p0, tail.mask, _mm512_castps512_ps256(a.part[0]));
  else
    _mm512_mask_storeu_ps(p0, tail.mask, a.part[0]);
#elif defined(__AVX2__)
  MUXTABLE_FOR_PARTS _mm256_maskstore_ps(p0 + 8 * p, tail.mask[p], a.part[p]);
#else
  float lanes[kLanes];
  store(lanes, a);
  for (int j = 0; j < tail.count; ++j) p0[j] = lanes[j];
#endif
}

// Writes a whole, aligned cache line around the caches.
MUXTABLE_INLINE void stream(float* p0, const Chunk& a) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p0, a.part[0]);
#elif defined(__AVX2__)
  MUXTABLE_FOR_PARTS _mm256_stream_ps(p0 + 8 * p, a.part[p]);
#elif defined(__x86_64__)
  MUXTABLE_FOR_PARTS _mm_stream_ps(p0 + 4 * p, a.part[p]);
#else
  store(p0, a);
#endif
}

// Makes streamed writes visible to the threads that wait for this one.
MUXTABLE_INLINE void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// `Chunks` chunks of a row, the last one partial where `Partial`.
template <int Chunks, bool Partial>
struct Row {
  Chunk chunk[Chunks];

  static MUXTABLE_INLINE Row load_from(const float* p, const Tail& tail) {
    Row out;
    for (int c = 0; c < Chunks; ++c)
      out.chunk[c] = Partial && c == Chunks - 1 ? load(p + kLanes * c, tail) : load(p + kLanes * c);
    return out;
  }

  MUXTABLE_INLINE void store_to(float* p, const Tail& tail) const {
    for (int c = 0; c < Chunks; ++c) {
      if (Partial && c == Chunks - 1)
        store(p + kLanes * c, chunk[c], tail);
      else
        store(p + kLanes * c, chunk[c]);
    }
  }

  MUXTABLE_INLINE void add(const Row& other) {
    for (int c = 0; c < Chunks; ++c) chunk[c] = chunk[c] + other.chunk[c];
  }
};

// Asks for every cache line of a row; `last` is the offset of its last float. No `Chunks`: as many
// as that tells.
template <int Chunks, bool Write>
MUXTABLE_INLINE void prefetch_row(const float* p, int64_t last) {
  if (Chunks == 0)
    for (int64_t j = 0; j < last; j += kLanes) __builtin_prefetch(p + j, Write ? 1 : 0, 3);
  for (int c = 0; c < Chunks; ++c) __builtin_prefetch(p + kLanes * c, Write ? 1 : 0, 3);
  // A row that does not start at a cache line ends in one more.
  __builtin_prefetch(p + last, Write ? 1 : 0, 3);
}

// Rows of more than 128 floats asked for ahead: as many as make about 128 cache lines.
MUXTABLE_INLINE int64_t wide_ahead(int64_t width) { return 128 * kLanes / width; }

// Calls visit.run<Chunks, Partial>() for rows of up to 128 floats, visit.run_wide() for wider ones.
template <typename Visit>
MUXTABLE_INLINE auto with_width(int64_t width, const Visit& visit) {
  const bool partial = width % kLanes != 0;
  switch ((width + kLanes - 1) / kLanes) {
    case 1:
      return partial ? visit.template run<1, true>() : visit.template run<1, false>();
    case 2:
      return partial ? visit.template run<2, true>() : visit.template run<2, false>();
    case 3:
      return partial ? visit.template run<3, true>() : visit.template run<3, false>();
    case 4:
      return partial ? visit.template run<4, true>() : visit.template run<4, false>();
    case 5:
      return partial ? visit.template run<5, true>() : visit.template run<5, false>();
    case 6:
      return partial ? visit.template run<6, true>() : visit.template run<6, false>();
    case 7:
      return partial ? visit.template run<7, true>() : visit.template run<7, false>();
    case 8:
      return partial ? visit.template run<8, true>() : visit.template run<8, false>();
    default:
      return visit.run_wide();
  }
}

}  // namespace
}  // namespace MUXTABLE_ISA
}  // namespace muxtable
