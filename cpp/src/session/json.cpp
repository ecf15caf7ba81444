// See json.h.
#include "session/json.h"

#include <charconv>
#include <cmath>
#include <unordered_set>

#include "fastcnn/error.h"

namespace fastcnn {
namespace {

const char* kind_name(Json::Kind k) {
  constexpr const char* names[] = {"null",     "a boolean", "an integer", "a number",
                                   "a string", "a list",    "an object"};
  return names[static_cast<int>(k)];
}

class Reader {
 public:
  Reader(std::string_view text, int depth) : text_(text), depth_(depth) {}

  Json document() {
    Json v = value();
    space();
    expect(at_ == text_.size(), "the end");
    return v;
  }

 private:
  std::string_view text_;
  size_t at_ = 0;
  int depth_;
  int64_t values_ = 0;
  static constexpr int64_t kMostValues = 4'000'000;  // a value takes a hundred bytes, its text perhaps two

  void expect(bool ok, const char* what) const { check(ok, "JSON: expected ", what, " at byte ", at_); }
  bool more() const { return at_ < text_.size(); }
  void space() {
    while (more() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) ++at_;
  }
  bool take(char c) {
    if (!more() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool word(std::string_view w) {
    if (text_.substr(at_, w.size()) != w) return false;
    at_ += w.size();
    return true;
  }

  Json value() {
    check(++values_ <= kMostValues, "JSON: more than ", kMostValues, " values");
    space();
    expect(more(), "a value");
    switch (text_[at_]) {
      case '{': return object();
      case '[': return array();
      case '"': return Json::string(string());
      case 't': expect(word("true"), "true"); return Json::boolean(true);
      case 'f': expect(word("false"), "false"); return Json::boolean(false);
      case 'n': expect(word("null"), "null"); return {};
      default: return number();
    }
  }

  Json object() {
    ++at_;
    check(--depth_ >= 0, "JSON: nested too deeply at byte ", at_);
    Json::Object members;
    std::unordered_set<std::string> names;
    space();
    if (!take('}')) do {
        space();
        expect(more() && text_[at_] == '"', "a name");
        std::string name = string();
        check(names.insert(name).second, "JSON: the name '", name, "' occurs twice, at byte ", at_);
        space();
        expect(take(':'), "':'");
        members.emplace_back(std::move(name), value());
        space();
      } while (take(',') || (expect(take('}'), "',' or '}'"), false));
    ++depth_;
    return Json::object(std::move(members));
  }

  Json array() {
    ++at_;
    check(--depth_ >= 0, "JSON: nested too deeply at byte ", at_);
    Json::Array items;
    space();
    if (!take(']')) do {
        items.push_back(value());
        space();
      } while (take(',') || (expect(take(']'), "',' or ']'"), false));
    ++depth_;
    return Json::array(std::move(items));
  }

  Json number() {
    const size_t start = at_;
    auto digits = [&] {
      const size_t from = at_;
      while (more() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
      expect(at_ > from, "a digit");
      return at_ - from;
    };
    take('-');
    const size_t lead = at_;
    expect(digits() == 1 || text_[lead] != '0', "no leading zero");
    bool whole = true;
    if (take('.')) whole = false, digits();
    if (take('e') || take('E')) {
      whole = false;
      if (!take('+')) take('-');
      digits();
    }
    const char *b = text_.data() + start, *e = text_.data() + at_;
    if (whole) {
      int64_t v = 0;
      if (std::from_chars(b, e, v).ec == std::errc{}) return Json::integer(v);
    }
    double v = 0;
    const auto r = std::from_chars(b, e, v);
    check(r.ec == std::errc{} && std::isfinite(v), "JSON: the number at byte ", start, " is out of range");
    return Json::number(v);
  }

  uint32_t hex4() {
    uint32_t v = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      expect(more(), "four hexadecimal digits");
      const char c = text_[at_];
      const int d = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
      expect(d >= 0, "four hexadecimal digits");
      v = v * 16 + static_cast<uint32_t>(d);
    }
    return v;
  }

  static void append(std::string& s, uint32_t c) {
    auto byte = [&](uint32_t v) { s.push_back(static_cast<char>(v)); };
    if (c < 0x80) {
      byte(c);
    } else if (c < 0x800) {
      byte(0xc0 | c >> 6), byte(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
      byte(0xe0 | c >> 12), byte(0x80 | (c >> 6 & 0x3f)), byte(0x80 | (c & 0x3f));
    } else {
      byte(0xf0 | c >> 18), byte(0x80 | (c >> 12 & 0x3f)), byte(0x80 | (c >> 6 & 0x3f)), byte(0x80 | (c & 0x3f));
    }
  }

  // The bytes of one character of UTF-8: shortest form, no surrogates, at most U+10FFFF.
  void character(std::string& s) {
    const auto byte = [&](size_t i) { return at_ + i < text_.size() ? static_cast<uint8_t>(text_[at_ + i]) : 0u; };
    const uint32_t c = byte(0);
    const int n = c < 0x80                ? 1
                  : c >= 0xc2 && c < 0xe0 ? 2
                  : c >= 0xe0 && c < 0xf0 ? 3
                  : c >= 0xf0 && c < 0xf5 ? 4
                                          : 0;
    expect(n > 0, "valid UTF-8");
    uint32_t v = n == 1 ? c : c & (0xffu >> (n + 1));
    for (int i = 1; i < n; ++i) {
      expect((byte(static_cast<size_t>(i)) & 0xc0) == 0x80, "valid UTF-8");
      v = v << 6 | (byte(static_cast<size_t>(i)) & 0x3f);
    }
    expect(n < 3 || (n == 3 ? v >= 0x800 && (v < 0xd800 || v > 0xdfff) : v >= 0x10000 && v <= 0x10ffff),
           "valid UTF-8");
    s.append(text_.substr(at_, static_cast<size_t>(n)));
    at_ += static_cast<size_t>(n);
  }

  std::string string() {
    ++at_;
    std::string s;
    for (;;) {
      expect(more(), "'\"'");
      const auto c = static_cast<uint8_t>(text_[at_]);
      if (take('"')) return s;
      expect(c >= 0x20, "no control character in a string");
      if (!take('\\')) {
        character(s);
        continue;
      }
      expect(more(), "an escape");
      switch (text_[at_++]) {
        case '"': s.push_back('"'); break;
        case '\\': s.push_back('\\'); break;
        case '/': s.push_back('/'); break;
        case 'b': s.push_back('\b'); break;
        case 'f': s.push_back('\f'); break;
        case 'n': s.push_back('\n'); break;
        case 'r': s.push_back('\r'); break;
        case 't': s.push_back('\t'); break;
        case 'u': {
          uint32_t v = hex4();
          if (v >= 0xd800 && v < 0xdc00) {
            expect(word("\\u"), "the second half of a surrogate pair");
            const uint32_t low = hex4();
            expect(low >= 0xdc00 && low < 0xe000, "the second half of a surrogate pair");
            v = 0x10000 + ((v - 0xd800) << 10) + (low - 0xdc00);
          } else {
            expect(v < 0xdc00 || v > 0xdfff, "the first half of a surrogate pair");
          }
          append(s, v);
          break;
        }
        default: expect(false, "a known escape");
      }
    }
  }
};

void write_string(std::string& to, const std::string& s) {
  to.push_back('"');
  for (const char c : s) {
    if (c == '"' || c == '\\') {
      to.push_back('\\');
      to.push_back(c);
    } else if (static_cast<uint8_t>(c) < 0x20) {
      constexpr char hex[] = "0123456789abcdef";
      to.append("\\u00").append(1, hex[c >> 4]).append(1, hex[c & 15]);
    } else {
      to.push_back(c);
    }
  }
  to.push_back('"');
}

}  // namespace

Json Json::boolean(bool v) {
  Json j;
  j.kind_ = Kind::boolean, j.boolean_ = v;
  return j;
}
Json Json::integer(int64_t v) {
  Json j;
  j.kind_ = Kind::integer, j.integer_ = v;
  return j;
}
Json Json::number(double v) {
  Json j;
  j.kind_ = Kind::number, j.number_ = v;
  return j;
}
Json Json::string(std::string v) {
  Json j;
  j.kind_ = Kind::string, j.string_ = std::move(v);
  return j;
}
Json Json::array(Array v) {
  Json j;
  j.kind_ = Kind::array, j.array_ = std::move(v);
  return j;
}
Json Json::object(Object v) {
  Json j;
  j.kind_ = Kind::object, j.object_ = std::move(v);
  return j;
}

Json Json::parse(std::string_view text, int depth) { return Reader(text, depth).document(); }

bool Json::as_bool(const char* what) const {
  check(is(Kind::boolean), what, ": expected a boolean, got ", kind_name(kind_));
  return boolean_;
}
int64_t Json::as_int(const char* what) const {
  check(is(Kind::integer), what, ": expected an integer, got ", kind_name(kind_));
  return integer_;
}
double Json::as_double(const char* what) const {
  check(is(Kind::integer) || is(Kind::number), what, ": expected a number, got ", kind_name(kind_));
  return is(Kind::integer) ? static_cast<double>(integer_) : number_;
}
const std::string& Json::as_string(const char* what) const {
  check(is(Kind::string), what, ": expected a string, got ", kind_name(kind_));
  return string_;
}
const Json::Array& Json::items(const char* what) const {
  check(is(Kind::array), what, ": expected a list, got ", kind_name(kind_));
  return array_;
}
const Json::Object& Json::members(const char* what) const {
  check(is(Kind::object), what, ": expected an object, got ", kind_name(kind_));
  return object_;
}

const Json* Json::find(std::string_view name) const {
  for (const Member& m : object_)
    if (m.first == name) return &m.second;
  return nullptr;
}
const Json& Json::at(std::string_view name, const char* what) const {
  check(is(Kind::object), what, ": expected an object, got ", kind_name(kind_));
  const Json* j = find(name);
  check(j != nullptr, what, ": expected a member '", name, "'");
  return *j;
}
void Json::set(std::string name, Json value) {
  kind_ = Kind::object;
  object_.emplace_back(std::move(name), std::move(value));
}
void Json::push(Json value) {
  kind_ = Kind::array;
  array_.push_back(std::move(value));
}

bool operator==(const Json& a, const Json& b) {
  if (a.kind_ != b.kind_) return false;
  switch (a.kind_) {
    case Json::Kind::null: return true;
    case Json::Kind::boolean: return a.boolean_ == b.boolean_;
    case Json::Kind::integer: return a.integer_ == b.integer_;
    case Json::Kind::number: return a.number_ == b.number_;
    case Json::Kind::string: return a.string_ == b.string_;
    case Json::Kind::array: return a.array_ == b.array_;
    case Json::Kind::object: return a.object_ == b.object_;
  }
  return false;
}

void Json::write(std::string& to) const {
  switch (kind_) {
    case Kind::null: to += "null"; break;
    case Kind::boolean: to += boolean_ ? "true" : "false"; break;
    case Kind::integer: to += std::to_string(integer_); break;
    case Kind::number: {
      check(std::isfinite(number_), "JSON: cannot write the number ", number_);
      char text[40];
      const auto r = std::to_chars(text, text + sizeof text, number_);  // the shortest that comes back equal
      std::string_view s(text, static_cast<size_t>(r.ptr - text));
      to += s;
      if (s.find_first_of(".e") == std::string_view::npos) to += ".0";
      break;
    }
    case Kind::string: write_string(to, string_); break;
    case Kind::array: {
      char sep = '[';
      for (const Json& j : array_) {
        to.push_back(std::exchange(sep, ','));
        j.write(to);
      }
      to += array_.empty() ? "[]" : "]";
      break;
    }
    case Kind::object: {
      char sep = '{';
      for (const Member& m : object_) {
        to.push_back(std::exchange(sep, ','));
        write_string(to, m.first);
        to.push_back(':');
        m.second.write(to);
      }
      to += object_.empty() ? "{}" : "}";
      break;
    }
  }
}

std::string Json::dump() const {
  std::string s;
  write(s);
  return s;
}

}  // namespace fastcnn
