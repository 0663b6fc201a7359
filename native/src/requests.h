// A LookupRequest (proto/muxtable/v1) whose columns are ids alone, read as it came off the wire.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace muxtable {

// The ids of a column, anywhere in a message: n numbers of 8 bytes, little-endian, not aligned.
struct SentIds {
  const uint8_t* data;
  int64_t n;
};

// Cuts `int64s` out of every column. What is left, `rest`, is a LookupRequest with the same columns
// without values, so requests that differ in their ids alone leave the same bytes.
// Returns false for all that is not so plain, sound or not: other values, nulls, lists, fields
// twice, unknown ones, numbers longer than they need be, a rest of more than kMostRest bytes.
bool cut_ids(const uint8_t* data, size_t size, std::string& rest, std::vector<SentIds>& ids);

constexpr size_t kMostRest = 1 << 14;

// Adds a number as protobuf writes it: seven bits a byte, the lowest first.
void add_varint(std::string& out, uint64_t number);

}  // namespace muxtable
