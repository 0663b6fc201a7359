#include "requests.h"

namespace muxtable {
namespace {

// Tags: the number of a field times eight, and 2 for bytes or 0 for a number.
enum Tag : uint8_t {
  kChoice = 1 << 3 | 2,
  kFeatures = 2 << 3 | 2,
  kColumns = 3 << 3 | 2,
  kOutput = 4 << 3,
  kUnpooled = 5 << 3,
  kMaxReplyBytes = 6 << 3,
};
enum ColumnTag : uint8_t { kName = 1 << 3 | 2, kInt64s = 2 << 3 | 2, kUnit = 5 << 3 };

// A cursor over bytes; every read says whether there was something sound to read.
struct Reader {
  const uint8_t* at;
  const uint8_t* end;

  bool skip_number() {
    for (int i = 0; i < 10 && at < end; ++i)
      if (*at++ < 0x80) return true;
    return false;
  }

  // The length of a field, which must be inside; at most four bytes, as messages are far below 256 MB.
  bool read_length(size_t& length) {
    size_t number = 0;
    for (int shift = 0; shift < 28 && at < end; shift += 7) {
      const uint8_t byte = *at++;
      number |= static_cast<size_t>(byte & 0x7F) << shift;
      if (byte >= 0x80) continue;
      if (byte == 0 && shift > 0) return false;
      length = number;
      return number <= static_cast<size_t>(end - at);
    }
    return false;
  }

  bool skip_bytes() {
    size_t length;
    if (!read_length(length)) return false;
    at += length;
    return true;
  }
};

void add_bytes(std::string& out, const uint8_t* first, const uint8_t* end) {
  out.append(reinterpret_cast<const char*>(first), static_cast<size_t>(end - first));
}

bool cut_column(Reader column, std::string& rest, std::vector<SentIds>& ids) {
  const uint8_t* const first = column.at;
  const uint8_t *cut_first = nullptr, *cut_end = nullptr;
  bool has_name = false, has_unit = false;
  while (column.at < column.end) {
    const uint8_t* const field = column.at;
    switch (*column.at++) {
      case kName:
        if (has_name || !column.skip_bytes()) return false;
        has_name = true;
        break;
      case kUnit:
        if (has_unit || !column.skip_number()) return false;
        has_unit = true;
        break;
      case kInt64s: {
        size_t length;
        if (cut_first != nullptr || !column.read_length(length) || length % 8 != 0) return false;
        ids.push_back({column.at, static_cast<int64_t>(length / 8)});
        column.at += length;
        cut_first = field;
        cut_end = column.at;
        break;
      }
      default:
        return false;
    }
  }
  if (cut_first == nullptr) return false;
  rest.push_back(static_cast<char>(kColumns));
  add_varint(rest, static_cast<uint64_t>((cut_first - first) + (column.end - cut_end)));
  add_bytes(rest, first, cut_first);
  add_bytes(rest, cut_end, column.end);
  return true;
}

}  // namespace

void add_varint(std::string& out, uint64_t number) {
  for (; number > 0x7F; number >>= 7) out.push_back(static_cast<char>((number & 0x7F) | 0x80));
  out.push_back(static_cast<char>(number));
}

bool cut_ids(const uint8_t* data, size_t size, std::string& rest, std::vector<SentIds>& ids) {
  Reader message{data, data + size};
  while (message.at < message.end) {
    const uint8_t* const field = message.at;
    const uint8_t tag = *message.at++;
    switch (tag) {
      case kColumns: {
        size_t length;
        if (!message.read_length(length)) return false;
        if (!cut_column({message.at, message.at + length}, rest, ids)) return false;
        message.at += length;
        break;
      }
      case kChoice:
      case kFeatures:
        if (!message.skip_bytes()) return false;
        add_bytes(rest, field, message.at);
        break;
      case kOutput:
      case kUnpooled:
      case kMaxReplyBytes:
        if (!message.skip_number()) return false;
        add_bytes(rest, field, message.at);
        break;
      default:
        return false;
    }
    if (rest.size() > kMostRest) return false;
  }
  return true;
}

}  // namespace muxtable
