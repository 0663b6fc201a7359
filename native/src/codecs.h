// Rows to bytes and back for whole calls: the work is cut into runs of rows for the threads.
#pragma once

#include "codec_loops.h"

namespace muxtable {

// The first of n rows with a float that is not finite or whose size is beyond `limit`, or -1.
int64_t first_unfit(const float* rows, int64_t stride, int64_t n, int64_t width, float limit,
                    int threads);
void encode_coded(const EncodeTask& task, int64_t n, int threads);
void encode_pq_coded(EncodePqTask task, const float* codebook, int64_t n, int threads);
void decode_coded(const DecodeTask& task, int64_t n, int threads);
void copy_coded(const CopyTask& task, int64_t n, int threads);
void affine(const AffineTask& task, int64_t n, int threads);

}  // namespace muxtable
