// What it is: mutexes that a forked child finds free: fork() waits until nobody holds them. What it is not: a
// promise for objects that another thread was changing; what the child uses of those is its own affair.
#pragma once
#include <pthread.h>

#include <mutex>

namespace fastcnn {

// To be called once. Whoever takes two of these mutexes must have registered the inner one first: fork takes them
// in reverse order of registration.
template <std::mutex& (*Get)()>
int hold_while_forking() {
  return pthread_atfork([] { Get().lock(); }, [] { Get().unlock(); }, [] { Get().unlock(); });
}

}  // namespace fastcnn
