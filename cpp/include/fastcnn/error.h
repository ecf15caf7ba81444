// What it is: the exceptions of the library and how messages are built.
// ValueError = std::invalid_argument, IndexError = std::out_of_range, TypeError and MemoryError below; the Python
// module raises the exception of the same name. Nothing in the library aborts the process on bad input.
#pragma once
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>

#define FASTCNN_API __attribute__((visibility("default")))

namespace fastcnn {

using ValueError = std::invalid_argument;
using IndexError = std::out_of_range;

class FASTCNN_API TypeError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

class FASTCNN_API MemoryError : public std::bad_alloc {
 public:
  explicit MemoryError(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

// A part of a message and how it is written: messages of any parts are put together by one function, not by one
// for each list of types (a fourth of a megabyte of code).
struct MessagePart {
  const void* value;
  void (*write)(std::ostream&, const void*);
};

inline std::string join_message(const MessagePart* parts, size_t count) {
  std::ostringstream s;
  for (size_t i = 0; i < count; ++i) parts[i].write(s, parts[i].value);
  return s.str();
}

template <class T>
MessagePart message_part(const T& value) {
  return {&value, [](std::ostream& s, const void* v) { s << *static_cast<const T*>(v); }};
}
template <size_t N>
MessagePart message_part(const char (&text)[N]) {
  return {text, [](std::ostream& s, const void* v) { s << static_cast<const char*>(v); }};
}

template <class... A>
std::string concat(const A&... parts) {
  const MessagePart all[] = {message_part(parts)...};
  return join_message(all, sizeof...(A));
}

// check<ValueError>(ok, "conv2d: expected …, got ", shape)
template <class E = ValueError, class... A>
void check(bool ok, const A&... parts) {
  if (!ok) [[unlikely]]
    throw E(concat(parts...));
}

}  // namespace fastcnn
