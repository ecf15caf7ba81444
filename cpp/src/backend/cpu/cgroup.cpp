// See cgroup.h.
#include "backend/cpu/cgroup.h"

#include <algorithm>
#include <fstream>
#include <sstream>

namespace fastcnn::cpu {
namespace {

// Cores of one folder, 0 where it sets no quota.
double quota_of(const std::string& folder) {
  double quota = 0, period = 0;
  if (std::ifstream both(folder + "/cpu.max"); both) {  // "max 100000" or "150000 100000"
    if (!(both >> quota >> period)) return 0;
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;  // -1: none
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

}  // namespace

int cgroup_cores(const std::string& proc_cgroup, const std::string& root) {
  double least = 0;
  auto look_up = [&](const std::string& mount, std::string path) {  // a group and all above it
    for (;;) {
      const double q = quota_of(mount + path);
      if (q > 0) least = least > 0 ? std::min(least, q) : q;
      const size_t slash = path.rfind('/');
      if (path.empty() || slash == std::string::npos) return;
      path.resize(slash);
    }
  };
  // Lines are "0::/group" (version 2) or "4:cpu,cpuacct:/group" (version 1). In a container the path may be that
  // of the host, which is not there: the mount itself is the container's group then, and is looked at last in any
  // case.
  std::ifstream groups(proc_cgroup);
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    if (path == "/") path.clear();
    if (controllers.empty()) look_up(root, path);
    std::istringstream names(controllers);
    for (std::string name; std::getline(names, name, ',');) {
      if (name != "cpu") continue;
      look_up(root + "/cpu", path);
      if (controllers != name) look_up(root + "/" + controllers, path);
    }
  }
  look_up(root, "");
  look_up(root + "/cpu", "");
  return least > 0 ? std::max(1, static_cast<int>(std::min(least + 0.5, 1e6))) : 0;
}

}  // namespace fastcnn::cpu
