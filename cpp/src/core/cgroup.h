// What it is: the cores and the memory that the process's control group gives. What it is not: affinity.
#pragma once
#include <cstdint>
#include <string>

namespace fastcnn {

// Quota over period, rounded, at least 1; 0 where there is no quota. The tightest of the group and those above it
// counts, in version 2 and in version 1. proc_cgroup: the file /proc/self/cgroup; root: where control groups are
// mounted.
int cgroup_cores(const std::string& proc_cgroup = "/proc/self/cgroup", const std::string& root = "/sys/fs/cgroup");

// Bytes that the processes of the group may hold, the tightest likewise; 0 where there is no limit.
int64_t cgroup_memory(const std::string& proc_cgroup = "/proc/self/cgroup",
                      const std::string& root = "/sys/fs/cgroup");

}  // namespace fastcnn
