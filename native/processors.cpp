#include "processors.hpp"

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace halfpint {
namespace {

// Whole processors of `quota` microseconds in each `period`; 0 for none.
int whole_processors(double quota, double period) {
    if (!(quota > 0) || !(period > 0)) return 0;
    return std::max(1, static_cast<int>(std::min(quota / period, 1e6)));
}

int stricter(int a, int b) {
    if (a == 0 || b == 0) return std::max(a, b);
    return std::min(a, b);
}

// "200000 100000", or "max 100000".
int read_version_2(const std::string& folder) {
    std::ifstream file(folder + "/cpu.max");
    std::string quota;
    double period = 0;
    if (!(file >> quota >> period) || quota == "max") return 0;
    double microseconds = 0;
    std::istringstream(quota) >> microseconds;
    return whole_processors(microseconds, period);
}

int read_version_1(const std::string& folder) {
    std::ifstream quota_file(folder + "/cpu.cfs_quota_us"), period_file(folder + "/cpu.cfs_period_us");
    double quota = 0, period = 0;
    if (!(quota_file >> quota) || !(period_file >> period)) return 0;
    return whole_processors(quota, period);  // a quota of -1 is none
}

// The strictest limit of a group and of all above it. In a container the group's own path is often not visible; its
// limit then stands at the top.
int strictest(const std::string& top, std::string group, int (*read)(const std::string&)) {
    int limit = read(top);
    while (group.size() > 1) {
        limit = stricter(limit, read(top + group));
        group.resize(std::max<std::size_t>(group.rfind('/'), 1));
    }
    return limit;
}

#if defined(__linux__)
// Cores among the processors of a set: hardware threads of one core have the same list of siblings.
int cores_of(const cpu_set_t& set) {
    std::set<std::string> cores;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &set)) continue;
        const std::string name = std::to_string(cpu);
        std::ifstream file("/sys/devices/system/cpu/cpu" + name + "/topology/thread_siblings_list");
        std::string siblings;
        cores.insert(std::getline(file, siblings) ? siblings : "only " + name);
    }
    return static_cast<int>(cores.size());
}
#endif

}  // namespace

int processor_quota(const std::string& root) {
    std::ifstream groups(root + "/proc/self/cgroup");
    int limit = 0;
    for (std::string line; std::getline(groups, line);) {  // "0::/group", or "4:cpu,cpuacct:/group"
        const std::size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1), group = line.substr(second + 1);
        if (controllers.empty()) {
            limit = stricter(limit, strictest(root + "/sys/fs/cgroup", group, &read_version_2));
        } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
            for (const std::string& folder : {controllers, std::string("cpu")})
                limit = stricter(limit, strictest(root + "/sys/fs/cgroup/" + folder, group, &read_version_1));
        }
    }
    return limit;
}

int default_thread_count() {
    int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        threads = std::max({1, cores_of(set), std::min(2, CPU_COUNT(&set))});
#endif
    return stricter(threads, processor_quota(""));
}

}  // namespace halfpint
