// What the operators share: MindSpore's way to call one, and the work of one shared out among processors.
#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <future>
#include <vector>

inline int64_t processors() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

inline std::atomic<int64_t> most_parts{processors()};  // of one operator at a time

// Calls body(begin, end) for parts of [0, count), one on each processor that may be used; a small job stays on the calling thread.
template <class Body>
void parallel(int64_t count, int64_t flops, Body body) {
  const int64_t parts = std::max<int64_t>(1, std::min({most_parts.load(), count, flops / 2000000}));
  std::vector<std::future<void>> others;  // which wait for their part to end, also when another one fails
  for (int64_t part = 1; part < parts; ++part)
    others.push_back(std::async(std::launch::async, body, count * part / parts, count * (part + 1) / parts));
  body(0, count / parts);
  for (auto &other : others) other.get();
}

// Returns 0; or 5 if the work wants more memory or threads than there are.
template <class Work>
int status_of(Work work) {
  try {
    work();
    return 0;
  } catch (const std::exception &) {
    return 5;
  }
}

// Defines a function that MindSpore finds by its name; it is called with the inputs and outputs, in this order.
#define OPERATOR(NAME, ...)                                                                                         \
  extern "C" int NAME(int count, void **arrays, int *ranks, int64_t **shapes, const char **types, void *, void *) { \
    return __VA_ARGS__(count, arrays, ranks, shapes, types);                                                        \
  }
