// Runs the CUDA kernels on fibers, in three orders of threads, under whatever sanitizer this was built with. The thread
// sanitizer needs but one: what it finds does not depend on the order.
//
//     driver [part...]     status 1 where a result is wrong or the simulator refuses a launch

#include "driver.h"

#ifdef __SANITIZE_THREAD__
constexpr unsigned kOrders = 1;
#else
constexpr unsigned kOrders = 3;
#endif

int main(int count, char** names) {
  const std::pair<const char*, void (*)()> parts[] = {
      {"penalty", driver::check_penalty},
#ifndef PENALTY_ONLY  // in which tests plant defects
      {"placement", driver::check_placement},
      {"swaps", driver::check_swap_search},
      {"walks", driver::check_walks},
#endif
  };
  for (const auto& [name, check] : parts) {
    bool wanted = count < 2;
    for (int k = 1; k < count; ++k) wanted |= names[k] == std::string(name);
    for (unsigned order = 0; wanted && order < kOrders; ++order) {
      sim::order = order;
      try {
        check();
      } catch (const std::exception& error) {
        std::printf("REFUSED %s, order %u: %s\n", name, order, error.what());
        ++driver::wrong;
      }
    }
  }
  std::printf("%s\n", driver::wrong ? "failed" : "all right");
  return driver::wrong != 0;
}
