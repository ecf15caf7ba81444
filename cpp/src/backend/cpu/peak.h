// What it is: the speed limits of this machine, measured: arithmetic and memory. Nothing is cached, because clocks
// drift: whoever compares a time with a limit measures both in the same minute.
#pragma once
#include "fastcnn/runtime.h"

namespace fastcnn::cpu {

// With the threads and the ISA in use. seconds: about how long the whole measurement may take.
// Throws std::runtime_error when only references are allowed (FASTCNN_ISA=ref).
MachinePeak measure_peak(double seconds);

}  // namespace fastcnn::cpu
