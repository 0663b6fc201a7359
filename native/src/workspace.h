// Working memory of optimizer steps, kept between them so that none starts with page faults.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "loops.h"

namespace muxtable {

// Grows without keeping its old contents. `Zeroed` memory is zero when it is new.
template <typename Item, bool Zeroed = false>
class Buffer {
 public:
  Item* reserve(int64_t size) {
    if (size > size_) {
      items_.reset();
      size_ = 0;
      const size_t room = static_cast<size_t>(size + size / 4);
      items_.reset(Zeroed ? new Item[room]() : new Item[room]);
      size_ = static_cast<int64_t>(room);
    }
    return items_.get();
  }

 private:
  std::unique_ptr<Item[]> items_;
  int64_t size_ = 0;
};

struct ThreadScratch {
  Buffer<uint32_t, true> table;
  Buffer<uint32_t> next, heads;
  Buffer<int64_t> rows;

  Scratch reserve(int64_t table_size, int64_t entries) {
    return {table.reserve(table_size), next.reserve(entries + 1), heads.reserve(entries + 1),
            rows.reserve(entries + 1)};
  }
};

// Consecutive buckets that one thread processes in one go.
struct Go {
  int64_t first, last;  // buckets
  int64_t size;         // entries
};

struct Workspace {
  Buffer<uint64_t> entries;
  Buffer<int64_t> counts;
  std::vector<Go> goes;
  Buffer<float> scaled;
  std::vector<ThreadScratch> threads;
};

// Lends a workspace for as long as it lives; concurrent steps get different ones.
class Lease {
 public:
  Lease() {
    const std::lock_guard<std::mutex> lock(shared().mutex);
    if (shared().free.empty()) {
      workspace_ = std::make_unique<Workspace>();
    } else {
      workspace_ = std::move(shared().free.back());
      shared().free.pop_back();
    }
  }
  ~Lease() {
    const std::lock_guard<std::mutex> lock(shared().mutex);
    shared().free.push_back(std::move(workspace_));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Workspace* operator->() const { return workspace_.get(); }

 private:
  struct Shared {
    std::mutex mutex;
    std::vector<std::unique_ptr<Workspace>> free;
  };
  static Shared& shared() {
    static Shared* const instance = new Shared;  // never destroyed: threads may outlive statics
    return *instance;
  }
  std::unique_ptr<Workspace> workspace_;
};

}  // namespace muxtable
