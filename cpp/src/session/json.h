// What it is: JSON values, a strict reader (RFC 8259: no comments, no trailing commas, no duplicate names, valid
// UTF-8, bounded depth) and a writer whose numbers come back bit for bit. What it is not: fast for gigabytes, or
// lenient. Integers that fit int64 stay integers.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fastcnn {

class Json {
 public:
  enum class Kind : uint8_t { null, boolean, integer, number, string, array, object };
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;  // in the order of the text

  Json() = default;
  static Json boolean(bool v);
  static Json integer(int64_t v);
  static Json number(double v);
  static Json string(std::string v);
  static Json array(Array v = {});
  static Json object(Object v = {});

  // Throws ValueError with the place; `depth` bounds nesting, so that hostile text cannot exhaust the stack.
  static Json parse(std::string_view text, int depth = 64);
  std::string dump() const;

  Kind kind() const { return kind_; }
  bool is(Kind k) const { return kind_ == k; }
  // ValueError naming `what` where the kind is another.
  bool as_bool(const char* what) const;
  int64_t as_int(const char* what) const;
  double as_double(const char* what) const;  // of integers too
  const std::string& as_string(const char* what) const;
  const Array& items(const char* what) const;
  const Object& members(const char* what) const;

  const Json* find(std::string_view name) const;  // of an object; nullptr where there is none
  const Json& at(std::string_view name, const char* what) const;
  void set(std::string name, Json value);  // appends: names are the caller's to keep apart
  void push(Json value);
  Array& edit_items() { return array_; }
  Object& edit_members() { return object_; }

  friend bool operator==(const Json& a, const Json& b);

 private:
  Kind kind_ = Kind::null;
  bool boolean_ = false;
  int64_t integer_ = 0;
  double number_ = 0;
  std::string string_;
  Array array_;
  Object object_;

  void write(std::string& to) const;
};

}  // namespace fastcnn
