// What it is: everything public of fastcnn in one include.
#pragma once
#include "fastcnn/autocast.h"     // IWYU pragma: export
#include "fastcnn/autograd.h"     // IWYU pragma: export
#include "fastcnn/distributed.h"  // IWYU pragma: export
#include "fastcnn/graph.h"        // IWYU pragma: export
#include "fastcnn/ops.h"          // IWYU pragma: export
#include "fastcnn/optim.h"        // IWYU pragma: export
#include "fastcnn/runtime.h"      // IWYU pragma: export
#include "fastcnn/session.h"      // IWYU pragma: export
#include "fastcnn/tensor.h"       // IWYU pragma: export
