// The inner loops, compiled once per instruction set in a namespace of its own (loops.h says why).

#include "loops.h"
#include "mix.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "simd.inl"

#include "hash.inl"

#include "gather.inl"

#include "update.inl"

#include "sum.inl"

#include "limit.inl"

#include "codecs.inl"

#include "encode.inl"

namespace muxtable {
namespace MUXTABLE_ISA {

extern const Loops loops;
const Loops loops = {mix,    combine,   hash,          largest,   uniform,     gather,  gather_bags,
                     update, scale_row, sum_gradients, copy_rows, change_rows, read_all,
                     {largest_bits, encode, encode_pq, decode, copy_coded, affine}};

}  // namespace MUXTABLE_ISA
}  // namespace muxtable
