// The inner loops of the codecs; loops.h says what a table of loops is. native/codec_reference.py
// draws the formats.
#pragma once

#include <cstdint>

namespace muxtable {

// The numbers are those of native/codecs.py.
enum CodecKind : int {
  kFloat32 = 0,
  kFloat16 = 1,
  kBfloat16 = 2,
  kInt8 = 3,
  kInt4 = 4,
  kInt2 = 5,
  kFloat8 = 6,
  kBinary = 7,
  kPq = 8,
};

constexpr int64_t kMaxCodecWidth = 1024;
constexpr int64_t kMaxCodedBytes = 4 * kMaxCodecWidth;
constexpr int kMaxPlanes = 8;
constexpr int kEntries = 256;  // of a part of a product codebook

// Bytes of the codes of a row, what belongs to the row alone standing behind them.
inline int64_t plane_bytes(int64_t width) { return (width + 7) / 8; }
inline int64_t planes_of(int64_t width, int64_t row_bytes) {
  return (row_bytes - 1) / (plane_bytes(width) + 1);
}

// Coded rows [first, last) of a table, or those that `rows` names, on their way to floats.
struct DecodeTask {
  CodecKind kind;
  const uint8_t* raw;
  int64_t raw_stride;
  int64_t raw_rows;
  int64_t row_bytes;
  int64_t width;
  const int64_t* rows;  // null: output i is row i
  float* out;
  int64_t out_stride;
  const float* codebook;  // [parts, 256, width / parts]
  int64_t parts;
};

struct EncodeTask {
  CodecKind kind;
  const float* rows;
  int64_t stride;
  int64_t width;
  uint8_t* out;
  int64_t out_stride;
  int64_t row_bytes;
};

struct EncodePqTask {
  const float* rows;
  int64_t stride;
  const float* columns;  // the codebook with its inner axes exchanged: [parts, width / parts, 256]
  int64_t parts;
  int64_t part_width;
  uint8_t* out;
  int64_t out_stride;
};

struct CopyTask {
  const uint8_t* raw;
  int64_t raw_stride;
  int64_t row_bytes;
  const int64_t* rows;
  uint8_t* out;
  int64_t out_stride;
};

// out = offset + rows @ weights, term by term in the order of the rows' columns.
struct AffineTask {
  const float* rows;
  int64_t stride;
  int64_t terms;
  const float* weights;  // [terms, width]
  int64_t weight_stride;
  const float* offset;
  float* out;
  int64_t out_stride;
  int64_t width;
};

struct CodecLoops {
  // The largest size of n floats as bits without sign: a NaN's are beyond any number's.
  uint32_t (*largest_bits)(const float* values, int64_t n);
  void (*encode)(const EncodeTask& task, int64_t first, int64_t last);
  void (*encode_pq)(const EncodePqTask& task, int64_t first, int64_t last);
  void (*decode)(const DecodeTask& task, int64_t first, int64_t last);
  void (*copy_coded)(const CopyTask& task, int64_t first, int64_t last);
  void (*affine)(const AffineTask& task, int64_t first, int64_t last);
};

}  // namespace muxtable
