// What it is: whether results that one thread makes for others go past the caches, by where the cores lie. A line
// that two cores hold has to be taken from the other one before it is written, one after the other: 2 GB/s where
// no cache is common to both, as between groups of AMD's cores. What it is not: results too large for any cache,
// which go past them anyway (streams() in accept.h, choose_stream() in conv2d_tasks.h).
#pragma once
#include <cstdint>

#include "backend/cpu/threads.h"

namespace fastcnn::cpu {

// Nanoseconds that a cache line takes from the first thread to the last and back; 0 where that cannot be measured
// (one thread, inside of a parallel region, more threads than cores).
double round_trip_ns();

// From so many bytes on: of what is made in workspaces and by passes that wait for memory; of results of
// convolutions. On AMD the first is a megabyte and the second never comes; where a round trip takes long, both are
// 64 KB. It is measured five times a second of work, since hosts move virtual cores. Tests set one number for
// both; -1 is what the processor wants.
int64_t hand_over_bytes();
int64_t hand_over_result_bytes();
void set_hand_over_bytes(int64_t);

inline bool hands_over_in_memory(int64_t bytes) { return num_threads() > 1 && bytes >= hand_over_bytes(); }
inline bool hands_result_over_in_memory(int64_t bytes) {
  return num_threads() > 1 && bytes >= hand_over_result_bytes();
}

}  // namespace fastcnn::cpu
