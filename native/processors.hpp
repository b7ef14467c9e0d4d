// How many threads pay: what the system lets this process use, and how its processors are made.
#pragma once
#include <string>

namespace halfpint {

// Processors that the control groups of this process pay for, rounded down but at least 1; 0 when they set no limit.
// Files are read below `root` ("" for the real ones): versions 1 and 2, in the process's own group and those above it.
int processor_quota(const std::string& root);

// Threads to use by default: one for each core that this process may run on, or two for a single core with two
// hardware threads (they read memory a little faster than one), and never more than the quota.
int default_thread_count();

}  // namespace halfpint
