// Hash arithmetic over whole arrays, written so that compilers vectorise it.

namespace muxtable {
namespace MUXTABLE_ISA {
namespace {

void mix(const uint64_t* in, uint64_t* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = mix64(in[i]);
}

void combine(uint64_t* acc, const uint64_t* keys, uint64_t increment, int64_t n) {
  for (int64_t i = 0; i < n; ++i) acc[i] = mix64((acc[i] ^ keys[i]) + increment);
}

// The high half of a product. No vector unit has it for 64 bits, but 32-bit products add up to it:
// two of them where `size` has 32 bits, else four.
template <bool Narrow>
MUXTABLE_INLINE uint64_t reduce(uint64_t x, uint64_t size) {
  constexpr uint64_t kLow = 0xFFFFFFFFu;
  const uint64_t high = x >> 32, low = x & kLow;
  if (Narrow) return (high * size + ((low * size) >> 32)) >> 32;
  const uint64_t size_high = size >> 32, size_low = size & kLow;
  const uint64_t middle = high * size_low + ((low * size_low) >> 32);
  const uint64_t other = low * size_high + (middle & kLow);
  return high * size_high + (middle >> 32) + (other >> 32);
}

void hash(const uint64_t* keys, const uint8_t* nulls, const LookupHash& lookup, int64_t* out,
          int64_t n) {
  const uint64_t salt = lookup.salt, size = lookup.size;
  const int64_t base = lookup.base;
#if defined(__AVX512F__)
  constexpr bool kNarrowPays = true, kWidePays = true;
#elif defined(__AVX2__)
  constexpr bool kNarrowPays = true, kWidePays = false;
#else
  constexpr bool kNarrowPays = false, kWidePays = false;
#endif
  if (kNarrowPays && (size >> 32) == 0) {
    for (int64_t i = 0; i < n; ++i)
      out[i] = base + static_cast<int64_t>(reduce<true>(mix64(keys[i] ^ salt), size));
  } else if (kWidePays) {
    for (int64_t i = 0; i < n; ++i)
      out[i] = base + static_cast<int64_t>(reduce<false>(mix64(keys[i] ^ salt), size));
  } else {
    for (int64_t i = 0; i < n; ++i)
      out[i] = base + static_cast<int64_t>(mulhi64(mix64(keys[i] ^ salt), size));
  }
  if (nulls == nullptr) return;
  const int64_t null_row = base + static_cast<int64_t>(mulhi64(mix64(lookup.null_salt), size));
  for (int64_t i = 0; i < n; ++i) out[i] = nulls[i] ? null_row : out[i];
}

uint64_t largest(const int64_t* rows, int64_t n) {
  uint64_t most = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t row = static_cast<uint64_t>(rows[i]);
    most = row > most ? row : most;
  }
  return most;
}

void uniform(float* row, uint64_t row_key, float scale, int64_t width) {
  for (int64_t j = 0; j < width; ++j) {
    const uint64_t h = mix64(row_key + static_cast<uint64_t>(j + 1) * kGolden);
    row[j] = static_cast<float>(static_cast<int32_t>(h >> 40) - (1 << 23)) * scale;
  }
}

void scale_row(const float* in, float scale, float* out, int64_t width) {
  for (int64_t j = 0; j < width; ++j) out[j] = in[j] * scale;
}

}  // namespace
}  // namespace MUXTABLE_ISA
}  // namespace muxtable
