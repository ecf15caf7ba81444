// See cgroup.h.
#include "core/cgroup.h"

#include <algorithm>
#include <fstream>
#include <sstream>

namespace fastcnn {
namespace {

// Cores of one folder, 0 where it sets no quota.
double cores_of(const std::string& folder) {
  double quota = 0, period = 0;
  if (std::ifstream both(folder + "/cpu.max"); both) {  // "max 100000" or "150000 100000"
    if (!(both >> quota >> period)) return 0;
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;  // -1: none
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

// Bytes of one folder, 0 where it sets no limit ("max", or in version 1 a number near 2^63).
double bytes_of(const std::string& folder) {
  double bytes = 0;
  for (const char* file : {"/memory.max", "/memory.limit_in_bytes"})
    if (std::ifstream limit(folder + file); limit >> bytes && bytes > 0 && bytes < 1e18) return bytes;
  return 0;
}

// The least of a controller's groups that is not 0, or 0.
double least(const std::string& controller, double (*value)(const std::string&), const std::string& proc_cgroup,
             const std::string& root) {
  double found = 0;
  auto look_up = [&](const std::string& mount, std::string path) {  // a group and all above it
    for (;;) {
      const double v = value(mount + path);
      if (v > 0) found = found > 0 ? std::min(found, v) : v;
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
      if (name != controller) continue;
      look_up(root + "/" + controller, path);
      if (controllers != name) look_up(root + "/" + controllers, path);
    }
  }
  look_up(root, "");
  look_up(root + "/" + controller, "");
  return found;
}

}  // namespace

int cgroup_cores(const std::string& proc_cgroup, const std::string& root) {
  const double cores = least("cpu", cores_of, proc_cgroup, root);
  return cores > 0 ? std::max(1, static_cast<int>(std::min(cores + 0.5, 1e6))) : 0;
}

int64_t cgroup_memory(const std::string& proc_cgroup, const std::string& root) {
  return static_cast<int64_t>(least("memory", bytes_of, proc_cgroup, root));
}

}  // namespace fastcnn
