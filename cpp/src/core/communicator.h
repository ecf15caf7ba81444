// What it is: the communicator in use, for backends. What it is not: the way to set it (fastcnn/distributed.h).
#pragma once
#include <memory>

#include "fastcnn/distributed.h"

namespace fastcnn::distributed {

// Never null; whoever holds it may go on with it while another is set.
std::shared_ptr<const Communicator> current();

}  // namespace fastcnn::distributed
