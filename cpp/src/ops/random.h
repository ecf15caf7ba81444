// What it is: how random ops (rand, dropout) take their place in the stream of the generator of a device.
// Use: turn = take_random_turn(device); emit the op with turn.delta and turn.state.
#pragma once
#include "fastcnn/tensor.h"

namespace fastcnn {

// Eager: a copy of the generator's state, which has moved on, and 0. While tracing: the state itself and how many
// random ops of the step ran before; the state moves on once, at the end of each replay.
struct RandomTurn {
  Tensor state;
  int64_t delta = 0;
};
RandomTurn take_random_turn(Device device);

}  // namespace fastcnn
