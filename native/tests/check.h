// A test is a function registered by TEST; CHECK counts, and prints what fails with its values.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace check {

struct Test {
    const char* name;
    void (*run)();
};

inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

struct Register {
    Register(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

inline int64_t passed = 0, failed = 0;
inline bool quick = false;  // set by --quick: fewer sizes, for processors that are emulated

template <class T>
std::vector<T> sizes(std::initializer_list<T> all, std::initializer_list<T> few) {
    return quick ? few : all;
}

inline constexpr int64_t shown_failures = 20;

inline void report(bool good, const char* file, int line, const std::string& what) {
    if (good) {
        ++passed;
    } else if (++failed <= shown_failures) {
        std::cout << file << ":" << line << ": " << what << "\n";
    }
}

template <class T>
bool same_bits(const T& a, const T& b) {
    return std::memcmp(&a, &b, sizeof a) == 0;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() &&
           (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

using Rng = std::mt19937;

inline int64_t integer(Rng& rng, int64_t low, int64_t high) {  // both included
    return std::uniform_int_distribution<int64_t>(low, high)(rng);
}

inline std::vector<float> normal(Rng& rng, int64_t count, float scale = 1) {
    std::normal_distribution<float> distribution(0, scale);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = distribution(rng);
    return values;
}

}  // namespace check

#define TEST(name)                                              \
    static void name();                                         \
    static const check::Register register_##name(#name, &name); \
    static void name()

// The message is a stream expression, built only on failure: CHECK(a == b, a << " and " << b).
#define CHECK(condition, message)                                              \
    do {                                                                       \
        if (condition) {                                                       \
            ++check::passed;                                                   \
        } else {                                                               \
            std::ostringstream check_text;                                     \
            check_text << #condition << ": " << message;                       \
            check::report(false, __FILE__, __LINE__, check_text.str());        \
        }                                                                      \
    } while (false)

#define CHECK_THROWS(statement, type)                                          \
    do {                                                                       \
        bool check_threw = false;                                              \
        try {                                                                  \
            statement;                                                         \
        } catch (const type&) {                                                \
            check_threw = true;                                                \
        }                                                                      \
        check::report(check_threw, __FILE__, __LINE__, #statement " did not throw " #type); \
    } while (false)
