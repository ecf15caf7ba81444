// What it is: how random ops (rand, dropout) take their place in the stream of the generator of a device.
// Use: state = random_state(device); delta = take_random_delta(state); emit the op with delta and state;
// finish_random(state).
#pragma once
#include "fastcnn/tensor.h"

namespace fastcnn {

// Eager: 0, the state itself moves on with each op. While tracing: how many random ops of the step ran before; the
// state moves on once, at the end of each replay.
int64_t take_random_delta(const Tensor& state);
void finish_random(const Tensor& state);

}  // namespace fastcnn
