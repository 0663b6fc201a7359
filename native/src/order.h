// The order of the data: permutations and their application to columns.
#pragma once

#include <cstdint>

namespace muxtable {

// Writes the permutation of [0, n) that `key` stands for (ARCHITECTURE.md, "Random numbers").
void permutation(uint64_t key, int64_t n, uint32_t* out);

// out[i] = column[order[i]] for items of 1, 4 or 8 bytes; every order[i] is below the column's length.
void permute(const void* column, int item_size, const uint32_t* order, int64_t n, void* out);

}  // namespace muxtable
