// See fastcnn/distributed.h.
#include "core/communicator.h"

#include <mutex>
#include <utility>

namespace fastcnn::distributed {
namespace {

std::mutex mutex;
std::shared_ptr<const Communicator>& slot() {
  static auto* s = new std::shared_ptr<const Communicator>(std::make_shared<Communicator>());  // outlives exit
  return *s;
}

}  // namespace

std::shared_ptr<const Communicator> current() {
  std::scoped_lock lock(mutex);
  return slot();
}

void set_communicator(Communicator c) {
  check(c.world_size >= 1 && c.rank >= 0 && c.rank < c.world_size,
        "set_communicator: expected a rank in [0, world_size), got rank ", c.rank, " of ", c.world_size);
  check(c.world_size == 1 || c.all_reduce, "set_communicator: expected all_reduce for a world of ", c.world_size,
        " processes, got none");
  auto next = std::make_shared<const Communicator>(std::move(c));
  std::scoped_lock lock(mutex);
  slot().swap(next);
}

int64_t rank() { return current()->rank; }
int64_t world_size() { return current()->world_size; }

}  // namespace fastcnn::distributed
