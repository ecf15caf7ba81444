// What it is: all_reduce on the CPU: a copy, added up in place by the communicator. What it is not: a transport.
#include <cstring>

#include "backend/cpu/lists.h"
#include "core/communicator.h"

namespace fastcnn::cpu {
namespace {

void run(const Call& c) {
  const int64_t n = c.out[0].numel();
  if (n && c.out[0].data != c.in[0].data)
    std::memcpy(c.out[0].data, c.in[0].data, static_cast<size_t>(n) * dtype_size(c.out[0].dtype));
  const auto comm = distributed::current();
  // Empty tensors too: whoever has none of the numbers still takes part.
  if (comm->world_size > 1) comm->all_reduce(c.out[0].data, n, c.out[0].dtype);
}

}  // namespace

List all_reduce_list() {
  static const Implementation list[] = {{"communicator", nullptr, nullptr, run}};
  return list;
}

}  // namespace fastcnn::cpu
